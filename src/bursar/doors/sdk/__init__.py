"""The door in the agent's own process: task contexts, tools, and the user's own HTTP clients."""
