"""DetectNet_v2 around its network: targets, losses, decoding, clustering of boxes, average precision.

What the toolkit does is written down, with the places where this room does otherwise, in the README's table; `compatibility`
arguments take "tao" for the toolkit's own result.
"""
