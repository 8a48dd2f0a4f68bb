"""The networks that are trained: generators, discriminators, their losses and exports."""
