"""The pytest side. This is the life of ``pytest --finetune``, from collection to the bundle.

1. pytest loads `plugin`, which declares flags and markers and imports nothing else of ours. A session of ours begins
   (`hooks.begin`) when a flag, an ini option, the experiment file or a test speaks of fine-tunes; no other session
   pays for one.
2. Before collection the experiment files are read (`session.check_early`), so that every mistake in them is a usage
   error. A run that names single tests also collects the files that hold the rules (`narrowed`).
3. Each test that asks for one of our fixtures is parametrised with its experiments (`collection.parametrize`). After
   every other plugin has had its say, the tests are put in the order of their stages (`markers.Stage`): data, fit,
   baseline, training, rules, comparison, decision. Foreign tests come first.
4. Under pytest-xdist each worker writes down which experiment a test belongs to, and the controller gives all tests of
   one experiment to one worker (`xdist`). A worker leases a GPU of its own when it first needs a device (`device`).
5. Before a test of ours is set up, it is refused when its rule is written wrongly, skipped without ``--finetune`` when
   it needs a model, and blocked when an earlier stage of its experiment failed (`gate`).
6. Fixtures are views of one `run.ExperimentRun` for each experiment. It wires the steps: each is a function or a small
   class with named inputs in `steps`, made once when it is first asked for (`parts`). Steps share a `context.Context`:
   experiment, settings, store, hooks, device, terminal, and `record`, the one way to record a fact.
7. So a decision that is asked for alone reads the rows and checks them (`steps.data_step`), plans the memory
   (`steps.planning`), trains or reuses the adapter (`steps.training_step`), resolves each arm once and lets it answer
   (`steps.answering`), lets both models answer neutral prompts while they are loaded (`steps.drifting`), and counts
   the look at the held-out rows (`steps.deciding`). What the store holds already is never made again.
8. A rule is called for every held-out row and arm (`rules.rule_items`), in place of the test's one call. It knows the
   run only as the protocol `rules.calling.AnsweredRun`; so ``pytest-finetune verify --rules`` runs it over the answers
   of a bundle (`rules.rejudging`), and no model is there to be asked.
9. What the user can mend fails the test that asked, in full and without a traceback, and every later test that needs
   the same part in one line. A failed data or fit test, or a failed training, closes the gate of its experiment.
10. Every fact leaves its process as one JSON string on the next test report (`evidence`). The only process, or the
    xdist controller, takes them together, so that a serial run and ``-n 2`` write the same record.
11. At the end (`closing`) the decision is computed once more from those facts alone, the look is counted in the store,
    the record and its page are written, and CI is told.
12. With ``--finetune-promote`` a whole, green run whose every decision is keep writes a bundle; any other says in one
    line each what is missing, and is not green.
"""
