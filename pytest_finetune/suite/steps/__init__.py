"""The parts of one experiment's run, each made once on demand: data, plan, adapter, answers, drift, decision."""
