//! A graph cut into sections: operators that run in one call stack. A section begins at a source or
//! where rows are exchanged by key, and runs as one subtask per degree of parallelism.

use crate::stream::graph::{Exchange, Graph, Op};
use crate::stream::operator::Failure;

/// The sections of a graph.
pub(super) struct Plan {
    /// In an order in which every section comes after those it reads from.
    pub(super) sections: Vec<Section>,
    /// Subtasks per section.
    pub(super) parallelism: usize,
}

/// See the module's header.
pub(super) struct Section {
    pub(super) root: SectionRoot,
    /// Positions in the graph of its operators, in order; a source is not among them.
    pub(super) nodes: Vec<usize>,
    /// Exchanges that leave it.
    pub(super) sends: Vec<Send>,
}

/// Where a section's rows come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SectionRoot {
    /// The source at this position in the graph.
    Source(usize),
    /// What the node at this position puts out, exchanged by key.
    Exchange(usize),
}

/// An exchange to another section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Send {
    /// Position in the graph of the node whose rows are sent.
    pub(super) from: usize,
    /// Columns whose hash decides.
    pub(super) columns: Vec<usize>,
    /// Index of the receiving section.
    pub(super) to: usize,
}

impl Plan {
    pub(super) fn new(graph: &Graph, parallelism: usize) -> Result<Plan, Failure> {
        let parallelism = parallelism.max(1);
        let mut sections: Vec<Section> = Vec::new();
        let mut section_of = Vec::with_capacity(graph.nodes.len());
        for (position, node) in graph.nodes.iter().enumerate() {
            let malformed = |reason: &str| {
                Failure::Rows(format!("operator '{}' cannot be run: {reason}", node.name))
            };
            let new = Section { root: SectionRoot::Source(position), nodes: vec![], sends: vec![] };
            let section = match (&node.op, node.inputs.as_slice()) {
                (Op::Source(_), []) => {
                    sections.push(new);
                    sections.len() - 1
                }
                (Op::Source(_), _) => return Err(malformed("a source has no input")),
                (_, [input]) if input.from >= position => {
                    return Err(malformed("it reads from an operator after it"));
                }
                (_, [input]) => match &input.exchange {
                    Exchange::Hash(columns) if parallelism > 1 => {
                        let to = sections.len();
                        sections.push(Section {
                            root: SectionRoot::Exchange(input.from),
                            nodes: vec![position],
                            ..new
                        });
                        let from: usize = section_of[input.from];
                        let columns = columns.clone();
                        sections[from].sends.push(Send { from: input.from, columns, to });
                        to
                    }
                    // With one subtask every exchange ends where it began.
                    Exchange::Hash(_) | Exchange::Forward => {
                        let section: usize = section_of[input.from];
                        sections[section].nodes.push(position);
                        section
                    }
                },
                (_, inputs) => {
                    return Err(malformed(&format!("it has {} inputs, not one", inputs.len())));
                }
            };
            section_of.push(section);
        }
        if sections.is_empty() {
            return Err(Failure::Rows("a job needs at least one source".to_owned()));
        }
        Ok(Plan { sections, parallelism })
    }

    /// Number of subtasks.
    pub(super) fn subtasks(&self) -> usize {
        self.sections.len() * self.parallelism
    }

    /// Number of writers with producer ids of their own: the state of each subtask, and each sink.
    pub(super) fn writers(&self, graph: &Graph) -> usize {
        let sinks = graph.nodes.iter().filter(|node| matches!(node.op, Op::Sink(_))).count();
        self.subtasks() + sinks * self.parallelism
    }
}
