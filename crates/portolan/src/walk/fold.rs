//! Text within a width: words of ours are wrapped, lines of others folded so that nothing is lost.
//!
//! Widths are in characters; all of ours and all that the walk's commands print are one column wide.

/// Lines of at most `width`, the first behind `first`, the others behind as many spaces.
///
/// A word that is longer than a line, such as an address of a page, stands alone on one and runs over.
pub(super) fn wrap(text: &str, first: &str, width: usize) -> Vec<String> {
    let rest = " ".repeat(first.chars().count());
    let mut lines = Vec::new();
    let mut line = first.to_owned();
    let mut empty = true;
    for word in text.split_whitespace() {
        if !empty && columns(&line) + 1 + columns(word) > width {
            lines.push(std::mem::replace(&mut line, rest.clone()));
            empty = true;
        }
        if !empty {
            line.push(' ');
        }
        line += word;
        empty = false;
    }
    lines.push(line);
    lines
}

/// A command's words on lines of at most `width`, continued as a shell continues them.
pub(super) fn command(words: &[String], prompt: &str, width: usize) -> Vec<String> {
    const CONTINUES: &str = " \\";
    let rest = " ".repeat(prompt.chars().count() + 2);
    let mut lines = Vec::new();
    let mut line = prompt.to_owned();
    let mut empty = true;
    for (place, word) in words.iter().enumerate() {
        let last = place + 1 == words.len();
        let room = if last { width } else { width - columns(CONTINUES) };
        if !empty && columns(&line) + 1 + columns(word) > room {
            lines.push(line + CONTINUES);
            line = rest.clone();
            empty = true;
        }
        if !empty {
            line.push(' ');
        }
        line += word;
        empty = false;
    }
    lines.push(line);
    lines
}

/// What another program printed, on lines of at most `width`; what goes on from the line above stands behind `deeper`.
///
/// Columns stay columns: if there is a gap that runs through all lines, they are folded there, else between words.
pub(super) fn fold(lines: &[&str], width: usize, deeper: &str) -> Vec<String> {
    if lines.iter().all(|line| columns(line) <= width) {
        return lines.iter().map(|line| (*line).to_owned()).collect();
    }
    match common_gap(lines, width) {
        Some(gap) => lines.iter().flat_map(|line| fold_at(line, gap, width, deeper)).collect(),
        None => lines.iter().flat_map(|line| fold_line(line, width, deeper)).collect(),
    }
}

/// The last place up to `width` where every line that reaches it begins a column: a word behind two spaces or more.
fn common_gap(lines: &[&str], width: usize) -> Option<usize> {
    let lines: Vec<Vec<char>> = lines.iter().map(|line| line.chars().collect()).collect();
    let begins = |line: &Vec<char>, at: usize| {
        line.len() <= at || (line[at] != ' ' && line[at - 1] == ' ' && line[at - 2] == ' ')
    };
    let fits =
        |line: &Vec<char>, at: usize| line.iter().take(at).rposition(|c| *c != ' ').is_none_or(|last| last < width);
    let several = lines.iter().filter(|line| line.len() > width).count() > 1;
    let mut places = (width / 2..=width + 3).rev();
    several.then(|| places.find(|at| lines.iter().all(|line| begins(line, *at) && fits(line, *at))))?
}

fn fold_at(line: &str, gap: usize, width: usize, deeper: &str) -> Vec<String> {
    let Some((place, _)) = line.char_indices().nth(gap) else {
        return vec![line.trim_end().to_owned()];
    };
    let (head, tail) = line.split_at(place);
    let tail = fold_line(tail, width - columns(deeper), deeper);
    [head.trim_end().to_owned()].into_iter().chain(tail.into_iter().map(|part| format!("{deeper}{part}"))).collect()
}

fn fold_line(line: &str, width: usize, deeper: &str) -> Vec<String> {
    let mut folded = Vec::new();
    let (mut rest, mut indent) = (line, "");
    while columns(rest) > width - columns(indent) {
        let room = width - columns(indent);
        let place = last_break(rest, room);
        let (head, tail) = rest.split_at(place);
        folded.push(format!("{indent}{}", head.trim_end()));
        (rest, indent) = (tail.trim_start(), deeper);
    }
    if !rest.is_empty() {
        folded.push(format!("{indent}{rest}"));
    }
    folded
}

/// Where to cut so that at most `room` columns stand before: behind a word's end, or inside a word that is too long.
fn last_break(line: &str, room: usize) -> usize {
    let begun = line.len() - line.trim_start().len();
    let end = line.char_indices().nth(room).map_or(line.len(), |(place, _)| place);
    let space = line[..end].rfind(' ').filter(|place| *place > begun);
    let exact = line[end..].starts_with(' ').then_some(end);
    let place = exact.or(space).unwrap_or(end);
    // A comment of iptables stays with the sign that opens it.
    match line[..place].trim_end().strip_suffix("/*") {
        Some(before) if before.len() > begun => before.len(),
        _ => place,
    }
}

/// The same with spaces for tabs, as a terminal with a stop at every 8th column shows it.
pub(super) fn untabbed(line: &str) -> String {
    let mut spaced = String::new();
    for part in line.split_inclusive('\t') {
        spaced += part.trim_end_matches('\t');
        if part.ends_with('\t') {
            spaced += &" ".repeat(8 - columns(&spaced) % 8);
        }
    }
    spaced
}

/// Width of a text in characters.
pub(super) fn columns(text: &str) -> usize {
    text.chars().count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_wrapped_between_words_and_nothing_is_lost() {
        let text = "A pod is the smallest thing that Kubernetes runs: one or more containers";
        for width in 12..90 {
            let lines = wrap(text, "  - ", width);
            assert!(lines.iter().all(|line| columns(line) <= width || width < 16), "{width}: {lines:#?}");
            assert!(lines[1..].iter().all(|line| line.starts_with("    ")), "{lines:#?}");
            let words = lines.iter().flat_map(|line| line.split_whitespace()).skip(1).collect::<Vec<_>>();
            assert_eq!(words.join(" "), text);
        }
        assert_eq!(wrap("see https://kubernetes.io/docs", "", 10), ["see", "https://kubernetes.io/docs"]);
    }

    #[test]
    fn a_long_command_goes_on_as_in_a_shell() {
        let words: Vec<String> = "curl -s -o /dev/null http://10.96.0.1/".split(' ').map(str::to_owned).collect();
        assert_eq!(command(&words, "$ ", 80), ["$ curl -s -o /dev/null http://10.96.0.1/"]);
        assert_eq!(command(&words, "$ ", 26), ["$ curl -s -o /dev/null \\", "    http://10.96.0.1/"]);
        assert!(command(&words, "$ ", 26).iter().all(|line| columns(line) <= 26));
    }

    #[test]
    fn a_wide_table_is_folded_at_one_column_for_all_rows() {
        let table = ["NAME   READY   IP           NODE", "web    1/1     10.244.0.1   node-1"];
        assert_eq!(fold(&table, 40, "  "), table);
        let folded = ["NAME   READY", "  IP           NODE", "web    1/1", "  10.244.0.1   node-1"];
        assert_eq!(fold(&table, 22, "  "), folded);
    }

    #[test]
    fn a_long_line_is_folded_between_words_and_nothing_is_lost() {
        let line = "KUBE-SEP-A  0  -- 0.0.0.0/0   10.96.0.10    /* default/ngx-svc:http */ tcp to:10.244.0.65:80";
        for width in 12..100 {
            let folded = fold(&[line], width, "    ");
            assert!(folded.iter().all(|part| columns(part) <= width), "{width}: {folded:#?}");
            assert!(folded[1..].iter().all(|part| part.starts_with("    ")), "{folded:#?}");
            let letters = |text: &str| text.chars().filter(|c| *c != ' ').collect::<String>();
            assert_eq!(letters(&folded.concat()), letters(line));
        }
        for width in [40, 46] {
            let words = fold(&[line], width, "    ");
            assert_eq!(words[0], "KUBE-SEP-A  0  -- 0.0.0.0/0   10.96.0.10", "{width}");
        }
    }

    #[test]
    fn tabs_take_the_room_that_they_take_in_a_terminal() {
        assert_eq!(untabbed("a.\t30\tIN\t\tA"), "a.      30      IN              A");
        assert_eq!(untabbed("12345678\tx"), "12345678        x");
    }

    #[test]
    fn lines_that_fit_stay_as_they_are() {
        for line in ["", "   spaces   kept   ", "ä ö"] {
            assert_eq!(fold(&[line], 20, "    "), [line]);
        }
    }
}
