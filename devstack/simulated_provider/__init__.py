"""A model provider with no model behind it: a loopback server that speaks the OpenAI and Anthropic dialects.

Everything it answers is marked as simulated (`x-simulated: 1`, ids that begin with `sim-`).
"""
