//! Python's pickles read as plain data: numbers, texts, containers, and *names* of classes and functions with what they were
//! to be called with. Nothing is ever called.
//!
//! What [`parse`] takes in memory is bounded by the bytes it reads: every instruction makes at most one value, and a value
//! that is used twice is the same value (so that a small file cannot unfold into a large one). Containers may hold each
//! other in circles; who walks them must not follow one for ever.

use std::collections::HashMap;
use std::fmt;

/// A value's place in its [`Pickle`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Id(u32);

/// What an instruction makes.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    None,
    Bool(bool),
    /// Integers that 64 bits hold; larger ones are [`Value::Other`].
    Int(i64),
    Float(f64),
    Text(String),
    Tuple(Vec<Id>),
    List(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    /// A class or function by its module and name.
    Global(String, String),
    /// What calling `callable` with `args` would make, and the state that it would then be given.
    Object {
        callable: Id,
        args: Id,
        state: Option<Id>,
        items: Vec<(Id, Id)>,
    },
    /// Something that stands outside of the pickle, such as a tensor's storage.
    Persistent(Id),
    /// Bytes, sets and large integers, which weights do not need.
    Other,
}

/// A pickle's values.
#[derive(Debug)]
pub(super) struct Pickle {
    values: Vec<Value>,
    pub(super) root: Id,
    /// Bytes that the pickle takes.
    pub(super) length: usize,
}

/// Why bytes are no pickle that can be read.
#[derive(Debug, PartialEq)]
pub(super) struct PickleError {
    at: usize,
    what: String,
}

impl fmt::Display for PickleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "its pickle cannot be read at byte {}: {}",
            self.at, self.what
        )
    }
}

/// More values than any checkpoint has (a ViT-H with its optimiser has some 100,000): some 60 bytes each.
const MOST_VALUES: usize = 4 << 20;

impl Pickle {
    pub(super) fn value(&self, id: Id) -> &Value {
        // Every id was made by this pickle's parser.
        &self.values[id.0 as usize]
    }

    /// Every value.
    pub(super) fn ids(&self) -> impl Iterator<Item = Id> {
        (0..self.values.len()).map(|i| Id(i as u32))
    }

    pub(super) fn text(&self, id: Id) -> Option<&str> {
        match self.value(id) {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    pub(super) fn size(&self, id: Id) -> Option<usize> {
        match self.value(id) {
            Value::Int(number) => usize::try_from(*number).ok(),
            _ => None,
        }
    }

    /// A tuple's or list's elements.
    pub(super) fn sequence(&self, id: Id) -> Option<&[Id]> {
        match self.value(id) {
            Value::Tuple(ids) | Value::List(ids) => Some(ids),
            _ => None,
        }
    }

    /// Entries under texts: of a dictionary, or an object's attributes. The last of a name counts.
    pub(super) fn entries(&self, id: Id) -> impl Iterator<Item = (&str, Id)> {
        let items = |id: Id| match self.value(id) {
            Value::Dict(items) | Value::Object { items, .. } => items.as_slice(),
            _ => &[],
        };
        let attributes = match self.value(id) {
            Value::Object { state, .. } => state.map_or(&[][..], items),
            _ => &[],
        };
        let named = |(key, value): &(Id, Id)| Some((self.text(*key)?, *value));
        items(id).iter().chain(attributes).filter_map(named)
    }

    pub(super) fn get(&self, id: Id, name: &str) -> Option<Id> {
        let same = self.entries(id).filter(|(key, _)| *key == name);
        same.last().map(|(_, value)| value)
    }

    /// If `id` is what a call would make: the callable's module and name, and its arguments.
    pub(super) fn call(&self, id: Id) -> Option<(&str, &str, &[Id])> {
        let Value::Object { callable, args, .. } = self.value(id) else {
            return None;
        };
        let Value::Global(module, name) = self.value(*callable) else {
            return None;
        };
        Some((module, name, self.sequence(*args)?))
    }
}

/// Reads one pickle from the beginning of `bytes`.
///
/// # Errors
/// If the bytes end early, hold an instruction that torch never writes, or contradict themselves.
pub(super) fn parse(bytes: &[u8]) -> Result<Pickle, PickleError> {
    let mut parser = Parser {
        bytes,
        at: 0,
        values: vec![],
        stack: vec![],
        marks: vec![],
        memo: HashMap::new(),
    };
    loop {
        let begin = parser.at;
        match parser.instruction() {
            Ok(None) => {}
            Ok(Some(root)) => {
                return Ok(Pickle {
                    values: parser.values,
                    root,
                    length: parser.at,
                });
            }
            Err(what) => return Err(PickleError { at: begin, what }),
        }
    }
}

struct Parser<'b> {
    bytes: &'b [u8],
    at: usize,
    values: Vec<Value>,
    stack: Vec<Id>,
    /// Where on the stack the open marks stand.
    marks: Vec<usize>,
    memo: HashMap<u32, Id>,
}

impl<'b> Parser<'b> {
    /// Carries out the next instruction; the last one gives the result.
    fn instruction(&mut self) -> Result<Option<Id>, String> {
        let code = self.take(1)?[0];
        match code {
            // Protocol and frames: nothing to do.
            0x80 => drop(self.take(1)?),
            0x95 => drop(self.take(8)?),
            b'.' => return self.pop().map(Some),
            b'(' => self.marks.push(self.stack.len()),

            b'N' => self.push(Value::None)?,
            0x88 => self.push(Value::Bool(true))?,
            0x89 => self.push(Value::Bool(false))?,
            b'K' => self.push_unsigned(1)?,
            b'M' => self.push_unsigned(2)?,
            b'J' => {
                let number = i32::from_le_bytes(self.array()?);
                self.push(Value::Int(number.into()))?;
            }
            0x8a => self.push_long(1)?,
            0x8b => self.push_long(4)?,
            b'G' => {
                let number = f64::from_be_bytes(self.array()?);
                self.push(Value::Float(number))?;
            }

            b'X' => self.push_text(4)?,
            0x8c => self.push_text(1)?,
            0x8d => self.push_text(8)?,
            // Python 2's strings, in which old checkpoints keep names.
            b'U' => self.push_text(1)?,
            b'T' => self.push_text(4)?,
            b'C' => self.push_bytes(1)?,
            b'B' => self.push_bytes(4)?,
            0x8e | 0x96 => self.push_bytes(8)?,

            b')' => self.push(Value::Tuple(vec![]))?,
            0x85..=0x87 => {
                let count = usize::from(code - 0x84);
                self.room(count)?;
                let ids = self.stack.split_off(self.stack.len() - count);
                self.push(Value::Tuple(ids))?;
            }
            b't' => {
                let ids = self.pop_to_mark()?;
                self.push(Value::Tuple(ids))?;
            }
            b']' => self.push(Value::List(vec![]))?,
            b'l' => {
                let ids = self.pop_to_mark()?;
                self.push(Value::List(ids))?;
            }
            b'a' => {
                let id = self.pop()?;
                self.append(vec![id])?;
            }
            b'e' => {
                let ids = self.pop_to_mark()?;
                self.append(ids)?;
            }
            b'}' => self.push(Value::Dict(vec![]))?,
            b'd' => {
                let ids = self.pop_to_mark()?;
                self.push(Value::Dict(pairs(&ids)?))?;
            }
            b's' => {
                let (value, key) = (self.pop()?, self.pop()?);
                self.set_items(vec![(key, value)])?;
            }
            b'u' => {
                let ids = self.pop_to_mark()?;
                self.set_items(pairs(&ids)?)?;
            }
            // Sets: their elements do not matter.
            0x8f => self.push(Value::Other)?,
            0x90 => drop(self.pop_to_mark()?),
            0x91 => {
                self.pop_to_mark()?;
                self.push(Value::Other)?;
            }

            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                self.push(Value::Global(module, name))?;
            }
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?);
                let text = |id: Id| match &self.values[id.0 as usize] {
                    Value::Text(text) => Ok(text.clone()),
                    _ => Err("a class's name is no text".to_owned()),
                };
                let global = Value::Global(text(module)?, text(name)?);
                self.push(global)?;
            }
            b'R' | 0x81 => {
                let (args, callable) = (self.pop()?, self.pop()?);
                self.call(callable, args)?;
            }
            0x92 => {
                let (_keywords, args, callable) = (self.pop()?, self.pop()?, self.pop()?);
                self.call(callable, args)?;
            }
            b'b' => {
                let new = self.pop()?;
                // An ordered dictionary's state is only attributes beside its items.
                if let Value::Object { state, .. } = self.top()? {
                    *state = Some(new);
                }
            }
            b'Q' => {
                let id = self.pop()?;
                self.push(Value::Persistent(id))?;
            }

            b'q' => {
                let key = self.take(1)?[0].into();
                self.remember(key)?;
            }
            b'r' => {
                let key = u32::from_le_bytes(self.array()?);
                self.remember(key)?;
            }
            0x94 => self.remember(self.memo.len() as u32)?,
            b'h' => {
                let key = self.take(1)?[0].into();
                self.recall(key)?;
            }
            b'j' => {
                let key = u32::from_le_bytes(self.array()?);
                self.recall(key)?;
            }
            b'0' => drop(self.pop()?),
            b'1' => drop(self.pop_to_mark()?),
            b'2' => {
                let id = self.pop()?;
                self.stack.extend([id, id]);
            }
            other => {
                return Err(format!(
                    "instruction 0x{other:02x} is not one that torch writes"
                ));
            }
        }
        Ok(None)
    }

    fn take(&mut self, count: usize) -> Result<&'b [u8], String> {
        let rest = &self.bytes[self.at..];
        let taken = rest.get(..count).ok_or("the file ends here")?;
        self.at += count;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let bytes = self.take(N)?;
        Ok(std::array::from_fn(|i| bytes[i]))
    }

    /// A length in so many bytes.
    fn length(&mut self, bytes: usize) -> Result<usize, String> {
        let number = self.take(bytes)?.iter().rev();
        let number = number.fold(0u64, |number, &byte| number << 8 | u64::from(byte));
        usize::try_from(number).map_err(|_| "a length is too large".into())
    }

    fn line(&mut self) -> Result<String, String> {
        let rest = &self.bytes[self.at..];
        let end = rest.iter().position(|&byte| byte == b'\n');
        let line = &rest[..end.ok_or("a name does not end")?];
        self.at += line.len() + 1;
        String::from_utf8(line.to_vec()).map_err(|_| "a name is not UTF-8".into())
    }

    fn push(&mut self, value: Value) -> Result<(), String> {
        if self.values.len() >= MOST_VALUES {
            return Err(format!("more than {MOST_VALUES} values"));
        }
        self.stack.push(Id(self.values.len() as u32));
        self.values.push(value);
        Ok(())
    }

    fn push_unsigned(&mut self, bytes: usize) -> Result<(), String> {
        let number = self.length(bytes)? as i64;
        self.push(Value::Int(number))
    }

    /// A two's complement number of any length.
    fn push_long(&mut self, bytes: usize) -> Result<(), String> {
        let count = self.length(bytes)?;
        let digits = self.take(count)?;
        let value = match digits {
            [] => Value::Int(0),
            [low @ .., _] if low.len() < 8 => {
                let fill = if digits[count - 1] & 0x80 != 0 {
                    0xff
                } else {
                    0
                };
                let byte = |i| *digits.get(i).unwrap_or(&fill);
                Value::Int(i64::from_le_bytes(std::array::from_fn(byte)))
            }
            _ => Value::Other,
        };
        self.push(value)
    }

    fn push_text(&mut self, bytes: usize) -> Result<(), String> {
        let count = self.length(bytes)?;
        let text = String::from_utf8_lossy(self.take(count)?).into_owned();
        self.push(Value::Text(text))
    }

    fn push_bytes(&mut self, bytes: usize) -> Result<(), String> {
        let count = self.length(bytes)?;
        self.take(count)?;
        self.push(Value::Other)
    }

    /// That so many values stand above the last mark.
    fn room(&self, count: usize) -> Result<(), String> {
        let floor = self.marks.last().copied().unwrap_or(0);
        if self.stack.len() < floor + count {
            return Err("a value is missing".into());
        }
        Ok(())
    }

    fn pop(&mut self) -> Result<Id, String> {
        self.room(1)?;
        self.stack.pop().ok_or("a value is missing".into())
    }

    fn top(&mut self) -> Result<&mut Value, String> {
        self.room(1)?;
        let id = self.stack.last().ok_or("a value is missing")?;
        Ok(&mut self.values[id.0 as usize])
    }

    fn pop_to_mark(&mut self) -> Result<Vec<Id>, String> {
        let mark = self.marks.pop().ok_or("a mark is missing")?;
        Ok(self.stack.split_off(mark))
    }

    fn append(&mut self, ids: Vec<Id>) -> Result<(), String> {
        match self.top()? {
            Value::List(list) => list.extend(ids),
            // Subclasses of lists.
            Value::Object { .. } => {}
            _ => return Err("something is appended to what is no list".into()),
        }
        Ok(())
    }

    fn set_items(&mut self, new: Vec<(Id, Id)>) -> Result<(), String> {
        match self.top()? {
            Value::Dict(items) | Value::Object { items, .. } => items.extend(new),
            _ => return Err("an item is set in what is no dictionary".into()),
        }
        Ok(())
    }

    fn call(&mut self, callable: Id, args: Id) -> Result<(), String> {
        let dictionary = match &self.values[callable.0 as usize] {
            Value::Global(module, name) => {
                module == "collections" && matches!(name.as_str(), "OrderedDict" | "defaultdict")
            }
            _ => false,
        };
        self.push(if dictionary {
            Value::Dict(vec![])
        } else {
            Value::Object {
                callable,
                args,
                state: None,
                items: vec![],
            }
        })
    }

    fn remember(&mut self, key: u32) -> Result<(), String> {
        self.room(1)?;
        let id = *self.stack.last().ok_or("a value is missing")?;
        self.memo.insert(key, id);
        Ok(())
    }

    fn recall(&mut self, key: u32) -> Result<(), String> {
        let id = *self
            .memo
            .get(&key)
            .ok_or("a value is named that was never made")?;
        self.stack.push(id);
        Ok(())
    }
}

fn pairs(ids: &[Id]) -> Result<Vec<(Id, Id)>, String> {
    let pairs = ids.chunks_exact(2);
    if !pairs.remainder().is_empty() {
        return Err("a dictionary has a key without a value".into());
    }
    Ok(pairs.map(|pair| (pair[0], pair[1])).collect())
}

#[cfg(test)]
mod tests;
