//! Tables without lines: easy to read, easy to cut with awk.

/// Columns with a heading, and rows.
#[derive(Debug)]
pub struct Table {
    columns: Vec<(String, Align)>,
    rows: Vec<Vec<String>>,
}

/// On which side a column is flush.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Align {
    /// Texts.
    Left,
    /// Numbers.
    Right,
}

impl Table {
    /// With these headings; one that begins with `>` is for numbers.
    pub fn new(headings: &[&str]) -> Self {
        let columns = headings
            .iter()
            .map(|heading| match heading.strip_prefix('>') {
                Some(heading) => (heading.to_owned(), Align::Right),
                None => ((*heading).to_owned(), Align::Left),
            })
            .collect();
        Self { columns, rows: Vec::new() }
    }

    /// Adds a row, which has a cell for each column.
    pub fn row(&mut self, cells: Vec<String>) {
        assert_eq!(cells.len(), self.columns.len(), "a cell for each column");
        // One line is one row, whatever stands in a text that somebody else wrote; and a terminal must not obey it.
        self.rows.push(cells.iter().map(|cell| one_line(cell)).collect());
    }

    /// The text, each line ended.
    pub fn render(&self) -> String {
        let headings: Vec<String> = self.columns.iter().map(|(heading, _)| heading.clone()).collect();
        let lines: Vec<&Vec<String>> = std::iter::once(&headings).chain(&self.rows).collect();
        let widths: Vec<usize> = (0..self.columns.len())
            .map(|column| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0))
            .collect();
        let mut text = String::new();
        for line in lines {
            let cells = line.iter().zip(&widths).zip(&self.columns).map(|((cell, width), (_, align))| match align {
                Align::Left => format!("{cell:<width$}"),
                Align::Right => format!("{cell:>width$}"),
            });
            text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
            text.push('\n');
        }
        text
    }
}

/// Without line breaks and other control characters.
pub fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_they_must_be() {
        let mut table = Table::new(&["NAME", ">FLOWS", "NOTE"]);
        table.row(vec!["policies/web".to_owned(), "7".to_owned(), "x".to_owned()]);
        table.row(vec!["é".to_owned(), "12345".to_owned(), String::new()]);
        assert_eq!(
            table.render(),
            "NAME          FLOWS  NOTE\n\
             policies/web      7  x\n\
             é             12345\n"
        );
    }

    #[test]
    fn a_cell_stays_on_its_line_and_sends_nothing_to_the_terminal() {
        let mut table = Table::new(&["A"]);
        table.row(vec!["x\n\u{1b}[2Jy".to_owned()]);
        assert_eq!(table.render(), "A\nx  [2Jy\n");
    }
}
