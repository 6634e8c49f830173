"""Models behind OpenAI-compatible endpoints: servers, the client, prompts, and what all stages share that ask."""
