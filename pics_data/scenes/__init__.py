"""Procedural 3D scenes with their exact truth: what stands where, its whole silhouette, depth, and what touches what.

From top to bottom: profiles, solids -> simple, things, vessels -> catalogue; rays, materials, meshes -> shapes (a solid
and all that is ever asked of it); camera, ground -> scene (the nouns) -> contact (exact, by the meshes) -> piling,
placing -> arranging (kinds of scenes) -> mood, layout (a seed becomes a scene, no pixel) -> samples, shading, backdrop,
background -> render (a scene becomes pixels and truth).
World units are about the size of an object; z is up, the ground is z = 0, the camera stands at -y and looks to +y.
"""

MESH_SUFFIXES = (".glb", ".gltf", ".obj", ".off", ".ply", ".stl")  # of the mesh files that can be read
