"""The style sheet of report.html."""

STYLE = """
:root { color-scheme: light dark; --paper: #fbfaf7; --sheet: #ffffff; --ink: #23262b; --soft: #6b6f76; --line: #e3dfd6;
  --faint: #efece5; --kept: #2f7a74; --pale: #b9d6d2; --lost: #c96a2b; --lost2: #e0975f; --lost3: #f0c39c;
  --mark: #b3261e; --user: #eef3f8; }
@media (prefers-color-scheme: dark) { :root { --paper: #17191c; --sheet: #1f2226; --ink: #e3e4e6; --soft: #9a9ea6;
  --line: #33373d; --faint: #282c31; --kept: #5fb3aa; --pale: #2f4d4b; --lost: #e08a4f; --lost2: #b8683a;
  --lost3: #7d4a2d; --mark: #ff8a80; --user: #26303a; } }
* { box-sizing: border-box; }
html { scroll-behavior: smooth; }
body { margin: 0; background: var(--paper); color: var(--ink); overflow-wrap: anywhere;
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "DejaVu Sans", sans-serif; }
body > * { max-width: 1240px; margin-inline: auto; padding-inline: clamp(14px, 4vw, 40px); }
h1 { font-size: 1.7rem; font-weight: 650; letter-spacing: -0.015em; margin: 2rem 0 0.2rem; }
h2 { font-size: 1.15rem; font-weight: 650; margin: 3rem 0 0.2rem; padding-top: 1rem;
  border-top: 1px solid var(--line); }
h3 { font-size: 1rem; font-weight: 650; margin: 1.8rem 0 0.6rem; }
p { margin: 0.2rem 0; max-width: 75ch; }
a { color: inherit; text-decoration-color: var(--soft); text-underline-offset: 2px; }
code { font: 0.84em ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace; }
.soft { color: var(--soft); font-weight: 400; } .note { color: var(--mark); }
.bad { color: var(--mark); font-weight: 600; }
nav { display: flex; flex-wrap: wrap; gap: 0.2rem 1.1rem; margin: 0.9rem 0 0; font-size: 0.92rem; }
.numbers { display: flex; flex-wrap: wrap; gap: 0.6rem 2.6rem; margin: 1.2rem 0 0; }
.numbers b { display: block; font-size: 1.75rem; font-weight: 600; line-height: 1.2;
  font-variant-numeric: tabular-nums; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: 0.92rem; font-variant-numeric: tabular-nums; }
th { font-weight: 500; color: var(--soft); text-align: left; }
th, td { padding: 0.16rem 1.1rem 0.16rem 0; vertical-align: baseline; } .r { text-align: right; white-space: nowrap; }
.stage { display: grid; grid-template-columns: 6.5rem 1fr 15.5rem; gap: 0.2rem 1rem; align-items: center;
  margin: 0.9rem 0 0; }
.stage b { font-weight: 600; } .stage > span { text-align: right; font-variant-numeric: tabular-nums; }
.bar { display: flex; height: 20px; border-radius: 4px; overflow: hidden; background: var(--faint); }
.bar i { flex: none; min-width: 1px; } .bar i + i { border-left: 1px solid var(--paper); }
.kept { background: var(--kept); } .lost { background: var(--lost); }
.lost:nth-of-type(3n) { background: var(--lost2); } .lost:nth-of-type(3n+1) { background: var(--lost3); }
.before { background: repeating-linear-gradient(135deg, var(--line) 0 4px, var(--faint) 4px 8px); }
.why { margin: 0.3rem 0 0.6rem 7.5rem; } .why code { white-space: nowrap; } .why td:last-child { color: var(--soft); }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 270px), 1fr)); gap: 1.4rem 2rem;
  margin-top: 1rem; }
.charts h3 { margin: 0; font-size: 0.95rem; } .charts p { font-size: 0.82rem; min-height: 1.2em; }
.chart { display: block; width: 100%; margin-top: 0.4rem; overflow: visible; }
.chart .all { fill: var(--pale); } .chart .sel { fill: var(--kept); } .chart line { stroke: var(--line); }
.chart text { fill: var(--soft); font-size: 10px; text-anchor: middle; } .chart g:hover .all { fill: var(--lost3); }
.key { display: inline-block; width: 0.8em; height: 0.8em; border-radius: 2px; vertical-align: -0.05em; }
.pale { background: var(--pale); }
.line { height: 8px; border-radius: 3px; min-width: 80px; width: 10vw; max-width: 140px; }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 220px), 1fr)); gap: 1.1rem; }
.card { background: var(--sheet); border: 1px solid var(--line); border-radius: 8px; padding: 0.7rem; min-width: 0;
  font-size: 0.87rem; line-height: 1.42; display: flex; flex-direction: column; gap: 0.5rem; overflow: hidden; }
.pictures { display: flex; flex-wrap: wrap; gap: 6px; justify-content: center; background: var(--faint); padding: 8px;
  margin: -0.7rem -0.7rem 0; border-radius: 7px 7px 0 0; align-items: center; min-height: 4rem; }
figure { position: relative; margin: 0; max-width: 100%; flex: none; line-height: 0; }
figure img { display: block; max-width: 100%; height: auto; }
figure svg { position: absolute; inset: 0; width: 100%; height: 100%; overflow: visible; }
polygon { fill: #00d0ff14; stroke: #00b4dc; stroke-width: 1.5; vector-effect: non-scaling-stroke; }
polygon.unsure { stroke: #ff8a00; fill: #ff8a0014; } polygon:hover { fill: #00d0ff66; }
.several figure { max-width: calc(50% - 3px); }
.t { white-space: pre-wrap; unicode-bidi: isolate; max-height: 30rem; overflow: hidden auto; }
.label { display: block; color: var(--soft); font-size: 0.78rem; }
.target > .label { color: var(--kept); font-weight: 600; }
.turn { border-radius: 6px; padding: 0.3rem 0.5rem; background: var(--faint); margin-bottom: 0.3rem; }
.turn.user { background: var(--user); margin-right: 1rem; } .turn.assistant { margin-left: 1rem; }
.u { font: 0.72em/1 ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace; color: var(--mark); padding: 0 2px;
  border: 1px solid; border-radius: 3px; margin: 0 1px; opacity: 0.85; white-space: nowrap; unicode-bidi: isolate; }
summary { cursor: pointer; list-style: none; } summary::-webkit-details-marker { display: none; }
summary .more { color: var(--soft); font-size: 0.78rem; text-decoration: underline dotted; white-space: nowrap; }
details[open] > summary > .t { display: none; }
.pairs { grid-template-columns: repeat(auto-fill, minmax(min(100%, 380px), 1fr)); }
.claims { margin: 0.3rem 0 0; padding-left: 1.1rem; font-size: 0.82rem; color: var(--soft); }
.claims .bad { color: var(--mark); } .claims .t { display: inline; }
.card footer { margin-top: auto; color: var(--soft); font-size: 0.76rem;
  display: flex; flex-wrap: wrap; gap: 0 0.7rem; }
.diff td { max-width: 34rem; } .foot { color: var(--soft); font-size: 0.82rem; margin-block: 3rem; }
@media (max-width: 640px) { .stage { grid-template-columns: 1fr auto; } .stage .bar { grid-column: 1 / -1; order: 3; }
  .why { margin-left: 0; } .charts { grid-template-columns: 1fr; } }
@media print { body { background: none; } .card { break-inside: avoid; } }
"""
