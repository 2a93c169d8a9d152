"""Between dialects: requests, answers and streams of OpenAI chat, Anthropic messages and Gemini, through one conversation."""
