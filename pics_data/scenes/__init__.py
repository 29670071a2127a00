"""Procedural 3D scenes with their exact truth: what stands where, its whole silhouette, and who is in front.

Reads from top to bottom: solids -> materials -> layout (no pixel) -> rays -> shading -> render (pixels).
World units are about the size of an object; z is up, the ground is z = 0, the camera stands at -y and looks to +y.
"""
