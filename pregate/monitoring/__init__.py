"""After launch: windows of a running service's routing against the reference that its placement was chosen on."""
