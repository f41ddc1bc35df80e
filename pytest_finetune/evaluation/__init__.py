"""Judge an adapter: prompts and answers, rules, statistics, the decision and its diagnosis."""
