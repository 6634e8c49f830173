"""The stages that ask for preferences, in order: responses, their claims, and verdicts on these."""

from pipelines.models.endpoints import endpoint_of
from pipelines.models.model_stage import ModelStage
from pipelines.models.prompts import read_prompt
from pipelines.stages.claims import Divide
from pipelines.stages.responses import Respond
from pipelines.stages.verdicts import Judge
from schemas.config.model import Config
from schemas.errors import UserError


def preference_stages(config: Config) -> list[ModelStage]:
    """Raises `UserError` for a model or a prompt that is not there."""
    responses, claims, verdicts = config.responses, config.claims, config.verdicts
    if verdicts is None:
        raise UserError('verdicts: missing; add the table [verdicts] with labelers = ["…"]')
    dividers = [endpoint_of(config, "claims.endpoint", claims.endpoint)] if claims.endpoint else []
    labelers = [endpoint_of(config, "verdicts.labelers", name) for name in sorted({*verdicts.labelers})]
    facts = read_prompt("claims.facts_prompt", claims.facts_prompt, "facts", ["response"])
    questions = read_prompt("claims.questions_prompt", claims.questions_prompt, "questions", ["facts"])
    prompt = read_prompt("verdicts.prompt", verdicts.prompt, "verdict", ["question"])
    return [
        Respond((endpoint_of(config, "responses.endpoint", responses.endpoint),), config=responses),
        Divide(tuple(dividers), 100 if dividers else None, config=claims, facts=facts, questions=questions),
        Judge(tuple(labelers), prompt=prompt),
    ]
