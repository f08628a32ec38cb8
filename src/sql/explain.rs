//! A graph as text, from the sinks down to the sources.

use std::fmt::Write;

use arrow::datatypes::Field;

use super::types::describe;
use crate::stream::graph::{Exchange, Graph, Op, Startup};

/// The text of EXPLAIN.
pub(super) fn explain(graph: &Graph) -> String {
    let mut is_read = vec![false; graph.nodes.len()];
    for edge in graph.nodes.iter().flat_map(|node| &node.inputs) {
        is_read[edge.from] = true;
    }
    let mut text = String::from("== Streaming Graph ==\n");
    for (index, _) in is_read.iter().enumerate().filter(|(_, is_read)| !**is_read) {
        write_node(graph, index, 0, &mut text);
    }
    text.truncate(text.trim_end().len());
    text
}

fn write_node(graph: &Graph, index: usize, depth: usize, text: &mut String) {
    let node = &graph.nodes[index];
    let indent = match depth {
        0 => String::new(),
        depth => format!("{}+- ", "   ".repeat(depth - 1)),
    };
    let columns: Vec<String> = node.schema.fields().iter().map(|field| column(field)).collect();
    // Writing to a String cannot fail.
    let _ = writeln!(
        text,
        "{indent}{} {}{} -> [{}]",
        node.id,
        node.name,
        detail(&node.op),
        columns.join(", ")
    );
    let mut depth = depth + 1;
    for edge in &node.inputs {
        if let Exchange::Hash(keys) = &edge.exchange {
            let input = &graph.nodes[edge.from].schema;
            let names: Vec<&str> =
                keys.iter().map(|key| input.field(*key).name().as_str()).collect();
            let indent = "   ".repeat(depth - 1);
            let _ = writeln!(text, "{indent}+- Exchange(hash[{}])", names.join(", "));
            depth += 1;
        }
        write_node(graph, edge.from, depth, text);
    }
}

fn column(field: &Field) -> String {
    let null = if field.is_nullable() { "" } else { " NOT NULL" };
    format!("{} {}{null}", field.name(), describe(field.data_type()))
}

fn detail(op: &Op) -> String {
    match op {
        Op::Source(source) => {
            let mut parts = vec![format!("topic={}", source.topic), startup(&source.startup)];
            if let Some(watermark) = &source.watermark {
                parts.push(format!("watermark={}", watermark.expr));
            }
            format!(" {{{}}}", parts.join(", "))
        }
        Op::Sink(sink) => format!(" {{topic={}}}", sink.topic),
        Op::TumbleAggregate(tumble) => {
            let calls: Vec<&str> = tumble.aggregates.iter().map(|call| call.name()).collect();
            format!(" {{{}}}", calls.join(", "))
        }
        Op::Filter(_) | Op::Project(_) => String::new(),
    }
}

fn startup(startup: &Startup) -> String {
    match startup {
        Startup::Earliest => "start=earliest-offset".to_owned(),
        Startup::Latest => "start=latest-offset".to_owned(),
        Startup::Timestamp(timestamp) => format!("start=timestamp {timestamp}"),
        Startup::GroupOffsets { reset: None } => "start=group-offsets".to_owned(),
        Startup::GroupOffsets { reset: Some(reset) } => {
            format!("start=group-offsets or {}", self::startup(reset).trim_start_matches("start="))
        }
    }
}
