"""What was measured of machines: one YAML file a fit, what it can say, what it covers, how far it can be trusted."""
