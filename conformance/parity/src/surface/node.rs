//! The public names of a package for Node, from its declarations.
//!
//! A reader of as much of `.d.ts` as compilers write: exported classes, interfaces, functions,
//! values and types, and re-exports from files beside it. It is no parser of TypeScript.

use std::path::{Path, PathBuf};

use super::Surface;

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Word(String),
    Text(String),
    Sign(char),
}

fn tokens(text: &str) -> Vec<Token> {
    let mut found = Vec::new();
    let mut rest = text.chars().peekable();
    while let Some(next) = rest.next() {
        match next {
            '/' if rest.peek() == Some(&'/') => while rest.next_if(|next| *next != '\n').is_some() {},
            '/' if rest.peek() == Some(&'*') => {
                let mut last = ' ';
                for next in rest.by_ref() {
                    if (last, next) == ('*', '/') {
                        break;
                    }
                    last = next;
                }
            }
            '\'' | '"' | '`' => {
                let mut inside = String::new();
                while let Some(one) = rest.next_if(|one| *one != next) {
                    inside.push(one);
                }
                rest.next();
                found.push(Token::Text(inside));
            }
            // An arrow is no bracket.
            '=' if rest.next_if_eq(&'>').is_some() => found.push(Token::Sign('→')),
            next if next.is_alphanumeric() || "_$#".contains(next) => {
                let mut word = String::from(next);
                while let Some(one) = rest.next_if(|one| one.is_alphanumeric() || "_$".contains(*one)) {
                    word.push(one);
                }
                found.push(Token::Word(word));
            }
            next if next.is_whitespace() => {}
            next => found.push(Token::Sign(next)),
        }
    }
    found
}

struct Reader<'a> {
    tokens: &'a [Token],
    at: usize,
}

impl Reader<'_> {
    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.at)
    }

    fn is_sign(&self, sign: char) -> bool {
        self.peek() == Some(&Token::Sign(sign))
    }

    fn word(&mut self) -> Option<String> {
        match self.peek() {
            Some(Token::Word(word)) => {
                let word = word.clone();
                self.at += 1;
                Some(word)
            }
            _ => None,
        }
    }

    /// Goes behind the bracket that closes the one that is next.
    fn skip_brackets(&mut self) {
        let mut depth = 0_i32;
        while let Some(token) = self.peek() {
            match token {
                Token::Sign('(' | '[' | '{' | '<') => depth += 1,
                Token::Sign(')' | ']' | '}' | '>') => depth -= 1,
                _ => {}
            }
            self.at += 1;
            if depth <= 0 {
                return;
            }
        }
    }

    /// Goes behind the end of a declaration, or to the bracket that closes what it is in.
    fn skip_declaration(&mut self) {
        while let Some(token) = self.peek() {
            match token {
                Token::Sign(';' | ',') => {
                    self.at += 1;
                    return;
                }
                Token::Sign('}' | ')') => return,
                Token::Sign('(' | '[' | '{' | '<') => self.skip_brackets(),
                _ => self.at += 1,
            }
        }
    }

    /// Names of parameters, and of the fields of those that are written as objects.
    fn parameters(&mut self) -> Vec<String> {
        let (begin, mut found) = (self.at, Vec::new());
        self.skip_brackets();
        let inside = &self.tokens[begin..self.at];
        for pair in inside.windows(3) {
            if let [_, Token::Word(name), Token::Sign(':' | '?')] = pair {
                found.push(name.clone());
            }
        }
        found
    }

    /// The members of a class or an interface, whose `{` is next.
    fn members(&mut self, of: &str, surface: &mut Surface) {
        self.at += 1;
        while self.peek().is_some() && !self.is_sign('}') {
            let mut hidden = false;
            let mut name = None;
            while let Some(word) = self.word() {
                hidden |= word.starts_with('#')
                    || word.starts_with('_')
                    || word == "private"
                    || word == "protected";
                name = Some(word);
            }
            if self.is_sign('[') {
                // `[Symbol.asyncDispose]()`, or an index.
                self.skip_brackets();
                name = None;
            }
            while self.is_sign('?') || self.is_sign('!') {
                self.at += 1;
            }
            if self.is_sign('<') {
                self.skip_brackets();
            }
            let parameters = if self.is_sign('(') { self.parameters() } else { Vec::new() };
            match name.as_deref() {
                Some("constructor") => surface.add(of, parameters),
                Some(name) if !hidden => surface.add(format!("{of}.{name}"), parameters),
                _ => {}
            }
            let before = self.at;
            self.skip_declaration();
            if self.at == before && !self.is_sign('}') {
                self.at += 1;
            }
        }
        self.at += 1;
    }
}

/// Of `type A as B` the name there and the name here.
fn listing(tokens: &[Token]) -> Option<(String, String)> {
    let words = tokens.iter().filter_map(|token| match token {
        Token::Word(word) if word != "type" && word != "as" => Some(word.clone()),
        _ => None,
    });
    let words: Vec<_> = words.collect();
    Some((words.first()?.clone(), words.last()?.clone()))
}

fn read(file: &Path, surface: &mut Surface, seen: &mut Vec<PathBuf>) -> Result<(), String> {
    if seen.iter().any(|one| one == file) {
        return Ok(());
    }
    seen.push(file.to_owned());
    let text = std::fs::read_to_string(file).map_err(|error| format!("{error} file={}", file.display()))?;
    let tokens = tokens(&text);
    let mut reader = Reader { tokens: &tokens, at: 0 };
    while let Some(token) = reader.peek() {
        if *token != Token::Word("export".into()) {
            reader.at += 1;
            continue;
        }
        reader.at += 1;
        let mut listed = Vec::new();
        let all = reader.is_sign('*');
        if reader.is_sign('{') || all || reader.peek() == Some(&Token::Word("type".into())) {
            let begin = reader.at;
            if reader.peek() == Some(&Token::Word("type".into())) {
                reader.at += 1;
            }
            if reader.is_sign('{') {
                let open = reader.at;
                reader.skip_brackets();
                let words: Vec<_> =
                    reader.tokens[open..reader.at].split(|token| *token == Token::Sign(',')).collect();
                listed = words.iter().filter_map(|words| listing(words)).collect();
            } else if all {
                reader.at += 1;
            } else {
                reader.at = begin;
            }
            if reader.at != begin {
                let mut from = None;
                if reader.peek() == Some(&Token::Word("from".into())) {
                    reader.at += 1;
                    if let Some(Token::Text(text)) = reader.peek() {
                        from = Some(text.clone());
                    }
                }
                listed.retain(|(_, name)| name != "default");
                let Some(from) = from.filter(|from| from.starts_with('.')) else {
                    listed.into_iter().for_each(|(_, name)| surface.add(name, []));
                    continue;
                };
                let base = from.trim_end_matches(".js").trim_end_matches(".mjs").trim_end_matches(".cjs");
                let next = file.with_file_name("").join(format!("{base}.d.ts"));
                let mut there = Surface::default();
                read(&next, &mut there, &mut Vec::new())?;
                surface.parents.extend(there.parents);
                for (name, parameters) in there.names {
                    let (first, rest) = name.split_at(name.find('.').unwrap_or(name.len()));
                    if all {
                        surface.add(name, parameters);
                    } else if let Some((_, shown)) = listed.iter().find(|(one, _)| one == first) {
                        surface.add(format!("{shown}{rest}"), parameters);
                    }
                }
                continue;
            }
        }
        while let Some(word) = reader.word() {
            match word.as_str() {
                "declare" | "default" | "abstract" | "async" => {}
                "class" | "interface" => {
                    let Some(name) = reader.word() else { break };
                    surface.add(name.clone(), []);
                    let mut parents = Vec::new();
                    while reader.peek().is_some() && !reader.is_sign('{') {
                        if let Some(word) = reader.word() {
                            parents.push(word);
                        } else if reader.is_sign('<') {
                            reader.skip_brackets();
                        } else {
                            reader.at += 1;
                        }
                    }
                    parents.retain(|parent| parent != "extends" && parent != "implements");
                    surface.parents.insert(name.clone(), parents);
                    reader.members(&name, surface);
                    break;
                }
                "function" => {
                    let Some(name) = reader.word() else { break };
                    if reader.is_sign('<') {
                        reader.skip_brackets();
                    }
                    let parameters = if reader.is_sign('(') { reader.parameters() } else { Vec::new() };
                    surface.add(name, parameters);
                    break;
                }
                "const" | "let" | "var" | "type" | "enum" | "namespace" => {
                    if let Some(name) = reader.word().filter(|name| name != "enum").or_else(|| reader.word())
                    {
                        surface.add(name, []);
                    }
                    break;
                }
                _ => break,
            }
        }
    }
    Ok(())
}

/// Reads the declarations that begin in this file.
pub fn surface(file: &Path) -> Result<Surface, String> {
    let mut surface = Surface::default();
    read(file, &mut surface, &mut Vec::new())?;
    surface.inherit();
    Ok(surface)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_functions_and_re_exports_are_found() {
        let file = Path::new(&std::env::var("CARGO_MANIFEST_DIR").unwrap()).join("tests/node/index.d.ts");
        let surface = surface(&file).unwrap();
        let names: Vec<_> = surface.names.keys().map(String::as_str).collect();
        let wanted = [
            "Client",
            "Client.close",
            "Client.connect",
            "Client.revision",
            "Client.watch",
            "Drake",
            "Drake.colour",
            "Drake.name",
            "Duck",
            "Duck.name",
            "Options",
            "Options.signal",
            "Options.ttl",
            "Other",
            "VERSION",
            "connect",
        ];
        assert_eq!(names, wanted);
        let parameters: Vec<_> = surface.names["Client.watch"].iter().map(String::as_str).collect();
        assert_eq!(parameters, ["from", "key", "options"]);
    }
}
