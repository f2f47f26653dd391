"""Markov chain Monte Carlo, with full and with stochastic gradients.

- ``mcmc``: shared by the samplers: coordinates, warm start, stored draws, adaptation.
- ``hmc``: Hamiltonian Monte Carlo.
- ``nuts``: the no-U-turn sampler.
- ``mclmc``: microcanonical Langevin Monte Carlo.
- ``sgld``: stochastic gradient Langevin dynamics.
- ``sghmc``: stochastic gradient Hamiltonian Monte Carlo.
"""
