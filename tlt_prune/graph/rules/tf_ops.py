"""Recurrent layers and wrappers. (Filled in with the layers that have memory.)"""
