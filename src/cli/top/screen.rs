//! The terminal while `ripstop top` runs: another screen, keys one by one, and both given back however it ends.

use crossterm::{
    cursor,
    event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers},
    execute, queue,
    style::Print,
    terminal::{self, Clear, ClearType, EnterAlternateScreen, LeaveAlternateScreen},
};
use std::{
    io::{self, Write},
    time::{Duration, Instant},
};

/// Columns and rows of a terminal that does not say how many it has.
const UNKNOWN_SIZE: (u16, u16) = (120, 24);

/// What a person wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wish {
    Quit,
    /// Sort by the next.
    Sort,
}

/// The terminal, changed; dropping it changes it back.
pub(super) struct Screen;

impl Screen {
    pub(super) fn take() -> io::Result<Self> {
        terminal::enable_raw_mode()?;
        // Made first, so that the rest is undone if it fails.
        let screen = Self;
        execute!(io::stdout(), EnterAlternateScreen, cursor::Hide)?;
        Ok(screen)
    }

    /// Shows as much of the text as fits.
    pub(super) fn draw(&self, text: &str) -> io::Result<()> {
        let (columns, rows) = match terminal::size()? {
            (0, _) | (_, 0) => UNKNOWN_SIZE,
            size => size,
        };
        let mut out = io::stdout().lock();
        queue!(out, cursor::MoveTo(0, 0))?;
        for line in text.lines().take(usize::from(rows)) {
            let shown: String = line.chars().take(usize::from(columns)).collect();
            // In raw mode a new line does not go back to the first column.
            queue!(out, Print(shown), Clear(ClearType::UntilNewLine), Print("\r\n"))?;
        }
        queue!(out, Clear(ClearType::FromCursorDown))?;
        out.flush()
    }

    /// Waits for a key that means something, for so long at most.
    pub(super) fn wish(&self, wait: Duration) -> io::Result<Option<Wish>> {
        let until = Instant::now() + wait;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if !event::poll(left)? {
                return Ok(None);
            }
            match event::read()? {
                Event::Key(key) if key.kind == KeyEventKind::Press => {
                    if let Some(wish) = meaning(key) {
                        return Ok(Some(wish));
                    }
                }
                Event::Resize(..) => return Ok(None),
                Event::Key(_) | Event::FocusGained | Event::FocusLost | Event::Mouse(_) => {}
            }
        }
    }
}

fn meaning(key: KeyEvent) -> Option<Wish> {
    match key.code {
        KeyCode::Char('q') | KeyCode::Esc => Some(Wish::Quit),
        KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => Some(Wish::Quit),
        KeyCode::Char('s') => Some(Wish::Sort),
        _ => None,
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // Nothing more can be done for a terminal that takes neither.
        let _ = execute!(io::stdout(), cursor::Show, LeaveAlternateScreen);
        let _ = terminal::disable_raw_mode();
    }
}
