//! What differs between two texts, line by line.

/// The longest table that is made to compare what is left of two texts between their common beginning
/// and end; beyond it all that is left counts as replaced. In pairs of lines.
const PAIRS_MAX: usize = 4 << 20;

/// A line and where it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Line<'a> {
    /// In both.
    Same(&'a str),
    /// In the first alone.
    Gone(&'a str),
    /// In the second alone.
    New(&'a str),
}

/// The lines of both texts, with as many of them in common as there can be.
pub fn lines<'a>(old: &'a str, new: &'a str) -> Vec<Line<'a>> {
    let (old, new): (Vec<_>, Vec<_>) = (old.split('\n').collect(), new.split('\n').collect());
    let head = old.iter().zip(&new).take_while(|(old, new)| old == new).count();
    let tail =
        old[head..].iter().rev().zip(new[head..].iter().rev()).take_while(|(old, new)| old == new).count();
    let (middle_old, middle_new) = (&old[head..old.len() - tail], &new[head..new.len() - tail]);
    let mut all: Vec<_> = old[..head].iter().map(|line| Line::Same(line)).collect();
    middle(middle_old, middle_new, &mut all);
    all.extend(old[old.len() - tail..].iter().map(|line| Line::Same(line)));
    all
}

fn middle<'a>(old: &[&'a str], new: &[&'a str], all: &mut Vec<Line<'a>>) {
    let (mut at_old, mut at_new) = (0, 0);
    if old.len().saturating_mul(new.len()) <= PAIRS_MAX {
        let width = new.len() + 1;
        // How many lines are in common from here on.
        let mut common = vec![0_u32; (old.len() + 1) * width];
        for row in (0..old.len()).rev() {
            for column in (0..new.len()).rev() {
                common[row * width + column] = match old[row] == new[column] {
                    true => common[(row + 1) * width + column + 1] + 1,
                    false => common[(row + 1) * width + column].max(common[row * width + column + 1]),
                };
            }
        }
        while at_old < old.len() && at_new < new.len() {
            if old[at_old] == new[at_new] {
                all.push(Line::Same(old[at_old]));
                (at_old, at_new) = (at_old + 1, at_new + 1);
            } else if common[(at_old + 1) * width + at_new] >= common[at_old * width + at_new + 1] {
                all.push(Line::Gone(old[at_old]));
                at_old += 1;
            } else {
                all.push(Line::New(new[at_new]));
                at_new += 1;
            }
        }
    }
    all.extend(old[at_old..].iter().map(|line| Line::Gone(line)));
    all.extend(new[at_new..].iter().map(|line| Line::New(line)));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_both_is_the_most_there_can_be() {
        use Line::{Gone, New, Same};
        assert_eq!(lines("a\nb\nc", "a\nx\nc"), [Same("a"), Gone("b"), New("x"), Same("c")]);
        assert_eq!(lines("a\nb\nc\nd", "b\nd\ne"), [Gone("a"), Same("b"), Gone("c"), Same("d"), New("e")]);
        assert_eq!(lines("", ""), [Same("")]);
        assert_eq!(lines("a", "a\n"), [Same("a"), New("")]);
    }

    #[test]
    fn both_texts_can_be_read_off_the_lines() {
        let texts = ["", "a", "a\nb\na\nb", "b\na\nb\nb\n", "\n\na", "x\ny\nz\na\nb"];
        for old in texts {
            for new in texts {
                let all = lines(old, new);
                let side = |take: fn(&Line<'static>) -> Option<&'static str>| {
                    all.iter().filter_map(take).collect::<Vec<_>>().join("\n")
                };
                let first = side(|line| match *line {
                    Line::Same(text) | Line::Gone(text) => Some(text),
                    Line::New(_) => None,
                });
                let second = side(|line| match *line {
                    Line::Same(text) | Line::New(text) => Some(text),
                    Line::Gone(_) => None,
                });
                assert_eq!((first.as_str(), second.as_str()), (old, new));
            }
        }
    }
}
