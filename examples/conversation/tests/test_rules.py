"""What is a right answer? Each answer of a conversation is a case; those of one conversation count together."""

from pytest_finetune import rules

test_answer = rules.exact_match(primary=True, min_gain=0.10, min_rate=0.6, cluster="group")
test_stops = rules.stops_by_itself(cluster="group")
