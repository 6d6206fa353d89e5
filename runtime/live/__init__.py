"""Runs whose own gates choose: ops are decided, bound and issued one by one, as the gates' answers come."""
