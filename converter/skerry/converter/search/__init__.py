"""Search: many recipes tried under budgets, and what none of them beats kept on a front."""

__all__: list[str] = []
