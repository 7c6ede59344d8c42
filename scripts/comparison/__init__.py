"""The parts of scripts/ablation.py: variants, schedule, paired differences, plots and the page."""
