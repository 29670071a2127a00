"""Procedural 3D scenes with their exact truth: what stands where, its whole silhouette, and who is in front.

From top to bottom: solids and rays -> catalogue, materials, ground, meshes, camera -> scene (the nouns) -> placing ->
layout (a seed becomes a scene, no pixel) -> shading, background -> render (a scene becomes pixels and truth).
World units are about the size of an object; z is up, the ground is z = 0, the camera stands at -y and looks to +y.
"""
