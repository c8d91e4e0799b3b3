//! The embedding: a sum of rows of tables, and what chooses the rows.

use super::super::reader::Fault;
use super::parts::{Rows, Table, Weight};
use super::walk::Walk;

impl<'a> Walk<'a> {
    /// Whether a value is a sum of embedding rows.
    pub(super) fn is_embedding(&self, value: &'a str) -> bool {
        let leaf = |value: &'a str| matches!(self.node_op(value), Some("DequantizeLinear" | "Gather"));
        let children = self.node(value).map(|node| node.inputs.as_slice()).unwrap_or_default();
        leaf(value) || children.iter().any(|child| leaf(child))
    }

    /// The tables whose rows are added, in that order.
    pub(super) fn tables(&self, sum: &'a str) -> Result<Vec<Table<'a>>, Fault> {
        let mut rest = sum;
        let mut tables = Vec::new();
        // Adding is from the inside out, and either side may be the inner one.
        for _ in 0..3 {
            if self.node_op(rest) != Some("Add") {
                break;
            }
            let [(a, b), _] = self.pair(self.node(rest)?)?;
            let (inner, leaf) = if self.node_op(b) == Some("Add") { (b, a) } else { (a, b) };
            tables.push(self.table(leaf)?);
            rest = inner;
        }
        tables.push(self.table(rest)?);
        tables.reverse();
        let count = |wanted: fn(Rows) -> bool| tables.iter().filter(|table| wanted(table.rows)).count();
        let words = count(|rows| rows == Rows::Tokens);
        let positions = count(|rows| matches!(rows, Rows::Positions | Rows::PositionsBehind(_)));
        if (words, positions) != (1, 1) || tables.len() > 3 {
            return Err(format!("'{sum}' is not the sum of word, position and token type embeddings"));
        }
        Ok(tables)
    }

    fn table(&self, value: &'a str) -> Result<Table<'a>, Fault> {
        let dequantize = self.expect(value, "DequantizeLinear", "a quantised embedding")?;
        let gather = self.expect(self.input(dequantize, 0)?, "Gather", "an embedding table")?;
        if gather.int("axis").is_some_and(|axis| axis != 0) {
            return Err(format!("{gather} gathers along another axis than the first"));
        }
        let weight = Weight {
            codes: self.input(gather, 0)?,
            scale: self.input(dequantize, 1)?,
            zero_point: self.input(dequantize, 2)?,
        };
        self.tensor(weight.codes)?;
        Ok(Table { rows: self.rows(self.input(gather, 1)?)?, weight })
    }

    /// What an embedding's rows are chosen by.
    fn rows(&self, index: &'a str) -> Result<Rows, Fault> {
        match index {
            "input_ids" => return Ok(Rows::Tokens),
            "token_type_ids" => return Ok(Rows::Types),
            _ => {}
        }
        let unknown = || format!("'{index}' chooses embeddings in a way that is not supported");
        let ancestors = self.graph.ancestors(index);
        if ancestors.iter().any(|node| node.op == "CumSum") {
            // Padding's id is compared with the ids and added at the end.
            let compared = ancestors.iter().find(|node| node.op == "Equal" && node.inputs.contains(&"input_ids"));
            let one = |value: &&str| match self.graph.constant(value)?.integers().ok()?[..] {
                [number] => u32::try_from(number).ok(),
                _ => None,
            };
            let padding = compared.and_then(|node| node.inputs.iter().find_map(&one));
            let last = self.expect(index, "Add", "positions behind the padding's")?;
            let added = last.inputs.iter().find_map(one);
            return match (padding, added) {
                (Some(padding), Some(added)) if padding == added => Ok(Rows::PositionsBehind(padding)),
                _ => Err(unknown()),
            };
        }
        // A constant, cut to the text's length and repeated for each text.
        let mut at = index;
        for _ in 0..8 {
            if let Some(constant) = self.graph.constant(at) {
                let numbers = constant.integers()?;
                if numbers.iter().all(|&number| number == 0) {
                    return Ok(Rows::First);
                }
                let counts = numbers.iter().enumerate().all(|(place, &number)| place as i64 == number);
                return if counts { Ok(Rows::Positions) } else { Err(unknown()) };
            }
            let node = self.node(at)?;
            if !matches!(node.op, "Slice" | "Expand" | "Unsqueeze" | "Reshape" | "Cast") {
                break;
            }
            if node.op == "Slice"
                && self.graph.constant(self.input(node, 1)?).is_none_or(|from| from.integers() != Ok(vec![0]))
            {
                break;
            }
            at = self.input(node, 0)?;
        }
        Err(unknown())
    }
}
