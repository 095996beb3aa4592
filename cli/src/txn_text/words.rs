//! Words of a line: apart by blanks, in quotes where they hold blanks.
//!
//! Double quotes know backslash escapes, among them `\xff` for any byte and `\u00e9` for a
//! character; single quotes take everything as it is.

type Result<T> = std::result::Result<T, &'static str>;

/// The words of a line. Quotes begin a word of their own, as in etcdctl.
pub fn split(line: &[u8]) -> Result<Vec<Vec<u8>>> {
    let mut words = Vec::new();
    let mut rest = line.trim_ascii_start();
    while let Some(&first) = rest.first() {
        let word;
        (word, rest) = match first {
            b'"' => quoted(rest)?.expect("begins with a double quote"),
            b'\'' => {
                let end = find(&rest[1..], b"'").ok_or("a single quote is not closed")?;
                (rest[1..=end].to_vec(), &rest[end + 2..])
            }
            _ => {
                let end = find(rest, b" \t\"'").unwrap_or(rest.len());
                // `--flag="a value"` is one word.
                match rest[..end].ends_with(b"=") && rest.get(end) == Some(&b'"') {
                    true => {
                        let (value, after) = quoted(&rest[end..])?.expect("begins with a quote");
                        ([&rest[..end], &value].concat(), after)
                    }
                    false => (rest[..end].to_vec(), &rest[end..]),
                }
            }
        };
        words.push(word);
        rest = rest.trim_ascii_start();
    }
    Ok(words)
}

fn find(text: &[u8], any_of: &[u8]) -> Option<usize> {
    text.iter().position(|byte| any_of.contains(byte))
}

/// The content of the double quotes that the text begins with, and what follows them; `None` if it
/// does not begin with any.
pub fn quoted(text: &[u8]) -> Result<Option<(Vec<u8>, &[u8])>> {
    let Some(mut rest) = text.strip_prefix(b"\"") else {
        return Ok(None);
    };
    let mut out = Vec::new();
    loop {
        match rest {
            [] => return Err("a double quote is not closed"),
            [b'"', after @ ..] => return Ok(Some((out, after))),
            [b'\\', escape @ ..] => rest = unescape(escape, &mut out)?,
            [byte, after @ ..] => {
                out.push(*byte);
                rest = after;
            }
        }
    }
}

/// Adds what the escape behind a backslash stands for and returns the rest.
fn unescape<'a>(escape: &'a [u8], out: &mut Vec<u8>) -> Result<&'a [u8]> {
    let (&kind, rest) = escape.split_first().ok_or("a backslash escapes nothing")?;
    let plain = match kind {
        b'a' => 0x07,
        b'b' => 0x08,
        b't' => b'\t',
        b'n' => b'\n',
        b'v' => 0x0b,
        b'f' => 0x0c,
        b'r' => b'\r',
        b'\\' | b'"' | b'\'' => kind,
        b'x' => return byte(rest, 2, 16, out),
        b'0'..=b'7' => return byte(escape, 3, 8, out),
        b'u' => return character(rest, 4, out),
        b'U' => return character(rest, 8, out),
        _ => return Err("an escape is unknown"),
    };
    out.push(plain);
    Ok(rest)
}

fn digits(text: &[u8], count: usize, radix: u32) -> Result<(u32, &[u8])> {
    let bad = "an escape lacks digits";
    let (digits, rest) = text.split_at_checked(count).ok_or(bad)?;
    let mut number = 0u32;
    for &digit in digits {
        let digit = char::from(digit).to_digit(radix).ok_or(bad)?;
        // At most eight hexadecimal digits, which just fit.
        number = number.wrapping_mul(radix) | digit;
    }
    Ok((number, rest))
}

fn byte<'a>(text: &'a [u8], count: usize, radix: u32, out: &mut Vec<u8>) -> Result<&'a [u8]> {
    let (number, rest) = digits(text, count, radix)?;
    out.push(u8::try_from(number).map_err(|_| "an escape is larger than a byte")?);
    Ok(rest)
}

fn character<'a>(text: &'a [u8], count: usize, out: &mut Vec<u8>) -> Result<&'a [u8]> {
    let (number, rest) = digits(text, count, 16)?;
    let character = char::from_u32(number).ok_or("an escape is no character")?;
    out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
    Ok(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        let words = split(line.as_bytes()).expect(line);
        (words.into_iter().map(|word| String::from_utf8(word).expect("is text"))).collect()
    }

    #[test]
    fn blanks_separate_words() {
        assert_eq!(words("  put  a\tb "), ["put", "a", "b"]);
        assert!(words("").is_empty());
    }

    #[test]
    fn quotes_hold_words_together() {
        assert_eq!(words(r#"put "a b" 'c "d"'"#), ["put", "a b", "c \"d\""]);
        assert_eq!(words(r#"put "" ''"#), ["put", "", ""]);
    }

    #[test]
    fn a_flag_takes_a_quoted_value() {
        assert_eq!(words(r#"get --x="a b" k"#), ["get", "--x=a b", "k"]);
    }

    #[test]
    fn double_quotes_know_escapes() {
        let (text, rest) = quoted(br#""\n\t\\\"\x41\101\u00e9" rest"#).unwrap().unwrap();
        assert_eq!(text, "\n\t\\\"AA\u{e9}".as_bytes());
        assert_eq!(rest, b" rest");
        assert_eq!(quoted(br#""\xff\377""#).unwrap().unwrap().0, [0xff, 0xff]);
        assert_eq!(quoted(br#""\U0001f511""#).unwrap().unwrap().0, "\u{1f511}".as_bytes());
    }

    #[test]
    fn single_quotes_know_none() {
        assert_eq!(words(r"put 'a\nb'"), ["put", r"a\nb"]);
    }

    #[test]
    fn broken_quotes_and_escapes_are_refused() {
        let lines: [&[u8]; 10] = [
            br#"""#,
            b"'",
            br#""\"#,
            br#""\q""#,
            br#""\x4""#,
            br#""\xzz""#,
            br#""\400""#,
            br#""\ud800""#,
            br#""\Uffffffff""#,
            br#""\08""#,
        ];
        for line in lines {
            assert!(split(line).is_err(), "{}", line.escape_ascii());
        }
    }
}
