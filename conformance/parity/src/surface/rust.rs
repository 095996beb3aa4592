//! The public names of a Rust crate, from its source.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use syn::{Attribute, Fields, ImplItem, Item, UseTree, Visibility};

use super::Surface;

#[derive(Default)]
struct Module {
    public_modules: Vec<String>,
    /// Public types and functions that are written here.
    items: Vec<String>,
    /// Public re-exports: the path, and the name it gets.
    uses: Vec<(Vec<String>, String)>,
}

#[derive(Default)]
struct Crate {
    modules: BTreeMap<Vec<String>, Module>,
    /// Of types, by the module they are written in and their names: fields and variants.
    members: BTreeMap<(Vec<String>, String), BTreeSet<String>>,
    /// All types, also those that cannot be named from outside.
    types: BTreeSet<(Vec<String>, String)>,
    /// Methods, by the module that they are written in and the name of their type.
    methods: Vec<(Vec<String>, String, Vec<String>)>,
}

fn is_public(visibility: &Visibility) -> bool {
    matches!(visibility, Visibility::Public(_))
}

fn has_attribute(attributes: &[Attribute], name: &str, word: &str) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident(name)
            && attribute.meta.require_list().is_ok_and(|list| list.tokens.to_string() == word)
    })
}

impl Crate {
    fn read(&mut self, path: Vec<String>, file: &Path, children: &Path) -> Result<(), String> {
        let place = |error: &dyn std::fmt::Display| format!("{error} file={}", file.display());
        let text = std::fs::read_to_string(file).map_err(|error| place(&error))?;
        let parsed = syn::parse_file(&text).map_err(|error| place(&error))?;
        self.modules.insert(path.clone(), Module::default());
        for item in parsed.items {
            match item {
                Item::Mod(module) if has_attribute(&module.attrs, "cfg", "test") => {}
                Item::Mod(module) if module.content.is_none() => {
                    let name = module.ident.to_string();
                    let (flat, deep) = (children.join(format!("{name}.rs")), children.join(&name));
                    let file: PathBuf = if flat.exists() { flat } else { deep.join("mod.rs") };
                    if is_public(&module.vis) {
                        self.module(&path).public_modules.push(name.clone());
                    }
                    self.read([path.clone(), vec![name]].concat(), &file, &deep)?;
                }
                item => self.item(&path, item),
            }
        }
        Ok(())
    }

    fn module(&mut self, path: &[String]) -> &mut Module {
        self.modules.entry(path.to_vec()).or_default()
    }

    fn item(&mut self, path: &[String], item: Item) {
        if let Item::Struct(syn::ItemStruct { ident, .. }) | Item::Enum(syn::ItemEnum { ident, .. }) = &item {
            self.types.insert((path.to_vec(), ident.to_string()));
        }
        let attributes: &[Attribute] = match &item {
            Item::Struct(item) => &item.attrs,
            Item::Enum(item) => &item.attrs,
            Item::Trait(item) => &item.attrs,
            Item::Type(item) => &item.attrs,
            Item::Fn(item) => &item.attrs,
            Item::Use(item) => &item.attrs,
            _ => &[],
        };
        // What is not documented is promised to nobody.
        if has_attribute(attributes, "doc", "hidden") {
            return;
        }
        match item {
            Item::Struct(item) if is_public(&item.vis) => {
                let name = item.ident.to_string();
                let fields = self.members.entry((path.to_vec(), name.clone())).or_default();
                if let Fields::Named(named) = item.fields {
                    let public = named.named.iter().filter(|field| is_public(&field.vis));
                    let names: Vec<_> =
                        public.filter_map(|field| field.ident.as_ref()).map(ToString::to_string).collect();
                    fields.extend(names);
                }
                self.module(path).items.push(name);
            }
            Item::Enum(item) if is_public(&item.vis) => {
                let name = item.ident.to_string();
                let variants = item.variants.iter().map(|variant| variant.ident.to_string());
                self.members.entry((path.to_vec(), name.clone())).or_default().extend(variants);
                self.module(path).items.push(name);
            }
            Item::Trait(item) if is_public(&item.vis) => self.module(path).items.push(item.ident.to_string()),
            Item::Type(item) if is_public(&item.vis) => self.module(path).items.push(item.ident.to_string()),
            Item::Fn(item) if is_public(&item.vis) => {
                self.module(path).items.push(item.sig.ident.to_string())
            }
            Item::Use(item) if is_public(&item.vis) => {
                let mut uses = Vec::new();
                flatten(&item.tree, Vec::new(), &mut uses);
                self.module(path).uses.extend(uses);
            }
            Item::Impl(item) if item.trait_.is_none() => {
                let syn::Type::Path(of) = &*item.self_ty else { return };
                let Some(name) = of.path.segments.last().map(|segment| segment.ident.to_string()) else {
                    return;
                };
                let public = item.items.iter().filter_map(|member| match member {
                    ImplItem::Fn(method) if is_public(&method.vis) => Some(method),
                    _ => None,
                });
                let shown = public.filter(|method| !has_attribute(&method.attrs, "doc", "hidden"));
                let names = shown.map(|method| method.sig.ident.to_string()).collect();
                self.methods.push((path.to_vec(), name, names));
            }
            _ => {}
        }
    }

    /// Where a name is written that a module re-exports by this path.
    fn find(
        &self,
        from: &[String],
        path: &[String],
        name: &str,
        depth: usize,
    ) -> Option<(Vec<String>, String)> {
        let base = match path.first().map(String::as_str) {
            Some("crate") => path[1..].to_vec(),
            Some("self") => [from, &path[1..]].concat(),
            Some("super") => [&from[..from.len().saturating_sub(1)], &path[1..]].concat(),
            _ => [from, path].concat(),
        };
        let place = (base.clone(), name.to_owned());
        let module = self.modules.get(&base)?;
        if self.members.contains_key(&place) || module.items.iter().any(|item| item == name) {
            return Some(place);
        }
        let next = module.uses.iter().find(|(_, shown)| shown == name).filter(|_| depth < 20)?;
        self.find(&base, &next.0, &next.1, depth + 1)
    }

    /// What can be reached from a public module: the shown name, and where it is written.
    fn public(&self, path: &[String], found: &mut BTreeMap<String, Option<(Vec<String>, String)>>) {
        let Some(module) = self.modules.get(path) else { return };
        for item in &module.items {
            found.insert(item.clone(), Some((path.to_vec(), item.clone())));
        }
        for (from, name) in &module.uses {
            found.insert(name.clone(), self.find(path, from, name, 0));
        }
        for child in &module.public_modules {
            self.public(&[path, std::slice::from_ref(child)].concat(), found);
        }
    }

    fn members_of(&self, place: &(Vec<String>, String)) -> BTreeSet<String> {
        let mut members = self.members.get(place).cloned().unwrap_or_default();
        for (module, name, methods) in &self.methods {
            // Beside the type, or in a module that has no other type of this name.
            let beside = *module == place.0;
            let elsewhere = !beside && !self.types.contains(&(module.clone(), name.clone()));
            if *name == place.1 && (beside || elsewhere) {
                members.extend(methods.iter().cloned());
            }
        }
        members
    }
}

fn flatten(tree: &UseTree, mut path: Vec<String>, found: &mut Vec<(Vec<String>, String)>) {
    match tree {
        UseTree::Path(next) => {
            path.push(next.ident.to_string());
            flatten(&next.tree, path, found);
        }
        UseTree::Name(name) => found.push((path, name.ident.to_string())),
        UseTree::Rename(name) => found.push((path, name.rename.to_string())),
        UseTree::Group(group) => group.items.iter().for_each(|tree| flatten(tree, path.clone(), found)),
        UseTree::Glob(_) => {}
    }
}

/// Reads the crate in this folder.
pub fn surface(folder: &Path) -> Result<Surface, String> {
    let source = folder.join("src");
    let mut all = Crate::default();
    all.read(Vec::new(), &source.join("lib.rs"), &source)?;
    let mut public = BTreeMap::new();
    all.public(&[], &mut public);
    let mut surface = Surface::default();
    for (name, place) in public {
        surface.add(name.clone(), []);
        for member in place.map(|place| all.members_of(&place)).unwrap_or_default() {
            surface.add(format!("{name}.{member}"), []);
        }
    }
    Ok(surface)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_be_named_from_outside_is_found_and_nothing_else() {
        let folder = Path::new(&std::env::var("CARGO_MANIFEST_DIR").unwrap()).join("tests/rust");
        let names: Vec<_> = surface(&folder).unwrap().names.into_keys().collect();
        let wanted = [
            "Client",
            "Client.open",
            "Client.watch",
            "Kind",
            "Kind.A",
            "Kind.B",
            "Record",
            "Record.shown",
            "free",
        ];
        assert_eq!(names, wanted);
    }
}
