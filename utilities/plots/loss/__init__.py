"""Figures of loss landscapes, training paths and Hessian spectra."""
