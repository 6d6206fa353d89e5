"""Why a schedule takes as long as it does: critical path, sensitivities, lower bounds."""
