//! Tables that fit the terminal: empty columns vanish, long ones shrink, the least important go.
//!
//! A pipe has no width: there nothing is cut.

use super::text::{clean, fit, width};

/// Space between two columns.
const GAP: usize = 2;

/// How a cell looks on a terminal with colours.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Style {
    /// As it is.
    #[default]
    Plain,
    /// Stressed.
    Bold,
    /// Less important.
    Dim,
    /// All is well.
    Green,
    /// Somebody has to decide.
    Yellow,
    /// Refused or failed.
    Red,
}

impl Style {
    /// The text in this style.
    pub fn paint(self, text: &str, color: bool) -> String {
        let code = match self {
            Self::Plain => "",
            Self::Bold => "1",
            Self::Dim => "2",
            Self::Green => "32",
            Self::Yellow => "33",
            Self::Red => "31",
        };
        if color && !code.is_empty() && !text.is_empty() { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// One column.
#[derive(Debug, Clone, Copy)]
pub struct Column {
    title: &'static str,
    right: bool,
    /// Narrowest width that still tells something; `None` for a column that does not shrink.
    least: Option<usize>,
    /// Columns with a higher rank go first where the width does not do; 0 stays.
    rank: u8,
}

/// A column that neither shrinks nor goes.
pub const fn column(title: &'static str) -> Column {
    Column { title, right: false, least: None, rank: 0 }
}

impl Column {
    /// Aligned to the right, for numbers.
    pub const fn right(mut self) -> Self {
        self.right = true;
        self
    }
    /// May shrink to `least` columns.
    pub const fn shrinks(mut self, least: usize) -> Self {
        self.least = Some(least);
        self
    }
    /// May go; the highest rank first.
    pub const fn optional(mut self, rank: u8) -> Self {
        self.rank = rank;
        self
    }
}

/// A cell: text made harmless, and its style.
#[derive(Debug, Clone, Default)]
pub struct Cell {
    text: String,
    style: Style,
}

/// A cell of plain text.
pub fn cell(text: impl AsRef<str>) -> Cell {
    styled(text, Style::Plain)
}

/// A cell with a style.
pub fn styled(text: impl AsRef<str>, style: Style) -> Cell {
    Cell { text: clean(text.as_ref()).into_owned(), style }
}

/// A table.
#[derive(Debug)]
pub struct Table {
    columns: Vec<Column>,
    titles: Vec<String>,
    rows: Vec<Vec<Cell>>,
}

impl Table {
    /// An empty table.
    pub fn new(columns: impl IntoIterator<Item = Column>) -> Self {
        Self::with_titles(columns.into_iter().map(|column| (column.title.to_owned(), column)))
    }

    /// An empty table whose titles are known only now; they are made harmless.
    pub fn with_titles(columns: impl IntoIterator<Item = (String, Column)>) -> Self {
        let (titles, columns) = columns.into_iter().map(|(title, column)| (clean(&title).into_owned(), column)).unzip();
        Self { columns, titles, rows: Vec::new() }
    }

    /// Adds a row; missing cells are empty.
    pub fn row(&mut self, cells: impl IntoIterator<Item = Cell>) {
        let mut row: Vec<Cell> = cells.into_iter().collect();
        row.resize_with(self.columns.len(), Cell::default);
        self.rows.push(row);
    }

    /// The table as lines, each ended by a line break.
    pub fn render(&self, terminal: Option<usize>, color: bool) -> String {
        let widths = self.layout(terminal);
        let mut out = String::new();
        let heads: Vec<Cell> = self.titles.iter().map(|title| styled(title, Style::Dim)).collect();
        for row in std::iter::once(&heads).chain(&self.rows) {
            let mut pad = 0;
            for (index, columns) in &widths {
                let (cell, column) = (&row[*index], &self.columns[*index]);
                let text = fit(&cell.text, *columns);
                let free = columns - width(&text).min(*columns);
                if column.right {
                    pad += free;
                }
                if !text.is_empty() {
                    out.extend(std::iter::repeat_n(' ', pad));
                    out.push_str(&cell.style.paint(&text, color));
                    pad = 0;
                }
                pad += if column.right { GAP } else { free + GAP };
            }
            out.push('\n');
        }
        out
    }

    /// The columns that are shown, each with its width.
    fn layout(&self, terminal: Option<usize>) -> Vec<(usize, usize)> {
        let natural = |index: usize| self.rows.iter().map(|row| width(&row[index].text)).max().unwrap_or(0);
        let mut shown: Vec<(usize, usize)> = (0..self.columns.len())
            .map(|index| (index, natural(index)))
            .filter(|(index, wide)| self.rows.is_empty() || *wide > 0 || self.columns[*index].rank == 0)
            .map(|(index, wide)| (index, wide.max(width(&self.titles[index]))))
            .collect();
        let Some(terminal) = terminal else { return shown };
        loop {
            let total: usize = shown.iter().map(|(_, wide)| wide + GAP).sum::<usize>().saturating_sub(GAP);
            let Some(over) = total.checked_sub(terminal).filter(|over| *over > 0) else { return shown };
            let least = |index: usize| self.columns[index].least.map(|least| least.max(width(&self.titles[index])));
            let room: usize = shown.iter().filter_map(|(index, wide)| Some(wide.saturating_sub(least(*index)?))).sum();
            if room >= over {
                // The widest gives first, so that short texts stay whole.
                for _ in 0..over {
                    let widest = shown
                        .iter_mut()
                        .filter(|(index, wide)| least(*index).is_some_and(|least| *wide > least))
                        .max_by_key(|(_, wide)| *wide);
                    if let Some((_, wide)) = widest {
                        *wide -= 1;
                    }
                }
                return shown;
            }
            let last = shown
                .iter()
                .enumerate()
                .filter(|(_, (index, _))| self.columns[*index].rank > 0)
                .max_by_key(|(_, (index, _))| self.columns[*index].rank);
            match last.map(|(place, _)| place) {
                Some(place) => drop(shown.remove(place)),
                None => {
                    for (index, wide) in &mut shown {
                        *wide = least(*index).map_or(*wide, |least| least.min(*wide));
                    }
                    return shown;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn devices() -> Table {
        let mut table = Table::new([
            column("NAME").shrinks(8),
            column("STATE"),
            column("CPU").right().optional(1),
            column("CODE").optional(3),
            column("WHY").shrinks(10).optional(2),
        ]);
        table.row([styled("robot-7", Style::Bold), styled("online", Style::Green), cell("3 %"), cell(""), cell("online")]);
        table.row([
            cell("机器人-with-a-long-name"),
            cell("offline"),
            cell("100 %"),
            cell(""),
            cell("no heartbeat for three minutes; check its network"),
        ]);
        table
    }

    #[test]
    fn a_pipe_gets_all_of_it() {
        assert_eq!(
            devices().render(None, false),
            "\
NAME                     STATE      CPU  WHY
robot-7                  online     3 %  online
机器人-with-a-long-name  offline  100 %  no heartbeat for three minutes; check its network
"
        );
    }

    #[test]
    fn a_terminal_is_never_overrun() {
        for terminal in 20..120 {
            let text = devices().render(Some(terminal), false);
            assert_eq!(text.lines().count(), 3);
            for line in text.lines() {
                assert!(width(line) <= terminal, "{terminal}: {line:?}");
            }
        }
        assert_eq!(
            devices().render(Some(40), false),
            "\
NAME         STATE      CPU  WHY
robot-7      online     3 %  online
机器人-wit…  offline  100 %  no heartbe…
"
        );
        assert_eq!(devices().render(Some(17), false), "NAME      STATE\nrobot-7   online\n机器人-…  offline\n");
    }

    #[test]
    fn colours_only_where_wanted() {
        assert!(!devices().render(Some(80), false).contains('\x1b'));
        let text = devices().render(Some(80), true);
        assert!(text.contains("\x1b[32monline\x1b[0m"), "{text}");
    }

    #[test]
    fn hostile_cells_stay_in_their_line() {
        let mut table = Table::new([column("NAME"), column("STATE")]);
        table.row([cell("a\n\x1b[31mb\u{202e}"), cell("x")]);
        assert_eq!(table.render(None, true).lines().count(), 2);
        assert!(table.render(None, false).contains(r"a\n\x1b[31mb\u{202e}"));
    }
}
