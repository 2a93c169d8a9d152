"""The server's side of the SDK: agents' processes ask here before they call, and tell what happened."""
