"""Where steps run that do not run here: engines that exist, each behind one Protocol."""
