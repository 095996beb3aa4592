"""Prints the public names of a module of a package, as JSON: {name: [parameters]}."""

import ast
import json
import sys
from pathlib import Path

package, module = Path(sys.argv[1]), sys.argv[2]
parsed = {}


def load(name):
    """The parsed module; what it was not found as is empty. Stubs say more than sources."""
    if name not in parsed:
        parts = [part for part in name.split(".") if part]
        base = package.joinpath(*parts)
        places = [base / "__init__.pyi", base / "__init__.py"]
        if parts:
            places += [base.with_suffix(".pyi"), base.with_suffix(".py")]
        found = next((place for place in places if place.exists()), None)
        parsed[name] = (ast.parse(found.read_text()) if found else ast.Module([], []), bool(found) and found.stem == "__init__")
    return parsed[name]


def absolute(name, node):
    """The module that a relative import names."""
    if node.level == 0:
        root = package.name
        target = node.module or ""
        return target[len(root) :].lstrip(".") if target == root or target.startswith(root + ".") else None
    parts = [part for part in name.split(".") if part]
    up = node.level - 1 if load(name)[1] else node.level
    parts = parts[: len(parts) - up] if up else parts
    return ".".join(parts + ([node.module] if node.module else []))


def exported(name):
    """What a module offers: its __all__, or what is written in it and imported as itself."""
    tree, _ = load(name)
    listed = None
    here = set()
    for node in tree.body:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            here.add(node.name)
        if isinstance(node, (ast.Assign, ast.AugAssign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            for target in targets:
                if isinstance(target, ast.Name) and target.id == "__all__" and node.value is not None:
                    listed = (listed or []) + [text.value for text in node.value.elts]
        if isinstance(node, ast.ImportFrom) and absolute(name, node) is not None:
            here |= {alias.asname or alias.name for alias in node.names if alias.name != "*"}
    return [one for one in (listed if listed is not None else sorted(here)) if not one.startswith("_")]


def find(name, wanted, depth=0):
    """Where something is written: a node, or nothing."""
    if depth > 20:
        return None
    tree, _ = load(name)
    for node in tree.body:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) and node.name == wanted:
            return name, node
    for node in tree.body:
        if isinstance(node, ast.ImportFrom):
            source = absolute(name, node)
            if source is None:
                continue
            for alias in node.names:
                if alias.name == "*" or (alias.asname or alias.name) == wanted:
                    found = find(source, wanted if alias.name == "*" else alias.name, depth + 1)
                    if found:
                        return found
    return None


def parameters(node):
    every = node.args.posonlyargs + node.args.args + node.args.kwonlyargs
    return sorted({one.arg for one in every} - {"self", "cls"})


def members(place, node, depth=0):
    found = {}
    for base in node.bases:
        if isinstance(base, ast.Name) and depth < 20:
            above = find(place, base.id)
            if above and isinstance(above[1], ast.ClassDef):
                found |= members(*above, depth + 1)
    for one in node.body:
        if isinstance(one, (ast.FunctionDef, ast.AsyncFunctionDef)):
            if one.name == "__init__":
                found["__init__"] = parameters(one)
            elif not one.name.startswith("_"):
                found[one.name] = sorted(set(found.get(one.name, [])) | set(parameters(one)))
        elif isinstance(one, ast.AnnAssign) and isinstance(one.target, ast.Name) and not one.target.id.startswith("_"):
            found[one.target.id] = []
        elif isinstance(one, ast.Assign):
            found |= {at.id: [] for at in one.targets if isinstance(at, ast.Name) and not at.id.startswith("_")}
    return found


names = {}
for name in exported(module):
    found = find(module, name)
    if found is None:
        names[name] = []
        continue
    place, node = found
    if not isinstance(node, ast.ClassDef):
        names[name] = parameters(node)
        continue
    inside = members(place, node)
    names[name] = inside.pop("__init__", [])
    names |= {f"{name}.{member}": given for member, given in inside.items()}
json.dump(names, sys.stdout)
