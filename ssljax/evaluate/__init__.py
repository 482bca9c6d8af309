"""Evaluations: one file a protocol, each a function of an encoder, labelled images and a mesh."""
