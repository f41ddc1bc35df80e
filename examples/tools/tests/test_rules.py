"""What is a right answer? The right tool, with the right arguments, and no call where none is asked for."""

from pytest_finetune import rules

test_tool = rules.tool_called(primary=True, min_gain=0.10, min_rate=0.6)
test_arguments = rules.tool_arguments(min_rate=0.5)
test_stops = rules.stops_by_itself()
