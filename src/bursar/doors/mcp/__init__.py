"""MCP servers behind a metering proxy: every tool call held, priced, settled and attributed."""
