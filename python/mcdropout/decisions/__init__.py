"""From uncertainty to decisions: triage, costs, acquisition and monitoring."""
