"""A sweep and what is made of it: values and labels, prompts, colour, sheet, measures, report, figure, export."""
