"""Markov chain Monte Carlo, with full and with stochastic gradients.

- ``mcmc``: shared by the samplers: whitened coordinates, warm start, stored draws.
- ``hamiltonian``: shared by HMC and NUTS: Stan's adaptation.
- ``hmc``: Hamiltonian Monte Carlo.
- ``nuts``: the no-U-turn sampler.
- ``mclmc``: microcanonical Langevin Monte Carlo.
- ``sgld``: stochastic gradient Langevin dynamics.
- ``sghmc``: stochastic gradient Hamiltonian Monte Carlo.
"""
