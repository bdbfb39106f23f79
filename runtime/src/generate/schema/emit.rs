//! A graph as a grammar of llguidance: its terminals are regular expressions, its rules arrays, objects and choices.

use super::Refusal;
use super::json::quoted;
use super::shape::{Arrays, Graph, NodeId, Objects};
use super::strings::Language;
use llguidance::api::{GrammarInit, SkipSpec};
use llguidance::earley::lexerspec::LexerSpec;
use llguidance::earley::{Grammar, SymIdx, SymbolProps};
use std::collections::HashMap;

/// Writes the grammar of a graph's first node. `whitespace` may stand between parts.
///
/// # Errors
/// When members of an object would have to be counted by name, or llguidance refuses the grammar.
pub fn grammar(graph: &Graph, whitespace: &str) -> Result<GrammarInit, Refusal> {
    let mut lexer = LexerSpec::new().map_err(refused)?;
    let class = lexer.setup_lexeme_class_with_skip(SkipSpec::once(Language::Regex(whitespace.into())));
    let class = class.map_err(refused)?;
    let properties = SymbolProps { grammar_id: class, ..SymbolProps::default() };
    let (literals, symbols, waiting) = Default::default();
    let mut emitter = Emitter { graph, grammar: Grammar::new(None), lexer, properties, literals, symbols, waiting };
    let start = emitter.grammar.fresh_symbol_ext("start", SymbolProps { is_start: true, ..emitter.properties.clone() });
    let root = emitter.node(0);
    emitter.rule(start, &[root])?;
    while let Some(node) = emitter.waiting.pop() {
        emitter.fill(node)?;
    }
    Ok(GrammarInit::Internal(emitter.grammar, emitter.lexer))
}

fn refused(cause: impl std::fmt::Display) -> Refusal {
    Refusal::new("#", format!("{cause:#}"))
}

struct Emitter<'a> {
    graph: &'a Graph<'a>,
    grammar: Grammar,
    lexer: LexerSpec,
    properties: SymbolProps,
    literals: HashMap<String, SymIdx>,
    symbols: HashMap<NodeId, SymIdx>,
    waiting: Vec<NodeId>,
}

impl Emitter<'_> {
    fn fresh(&mut self, name: &str) -> SymIdx {
        self.grammar.fresh_symbol_ext(name, self.properties.clone())
    }

    fn rule(&mut self, left: SymIdx, right: &[SymIdx]) -> Result<(), Refusal> {
        self.grammar.add_rule(left, right.to_vec()).map_err(refused)
    }

    /// A symbol with one rule for each of some alternatives.
    fn either(&mut self, name: &str, all: &[Vec<SymIdx>]) -> Result<SymIdx, Refusal> {
        let symbol = self.fresh(name);
        all.iter().try_for_each(|one| self.rule(symbol, one))?;
        Ok(symbol)
    }

    fn terminal(&mut self, name: &str, set: Language) -> Result<SymIdx, Refusal> {
        let lexeme = self.lexer.add_greedy_lexeme(name.into(), set, false, None, usize::MAX).map_err(refused)?;
        let symbol = self.fresh(name);
        self.grammar.make_terminal(symbol, lexeme, &self.lexer).map_err(refused)?;
        Ok(symbol)
    }

    fn literal(&mut self, text: &str) -> Result<SymIdx, Refusal> {
        if let Some(symbol) = self.literals.get(text) {
            return Ok(*symbol);
        }
        let symbol = self.terminal("literal", Language::Literal(text.into()))?;
        self.literals.insert(text.into(), symbol);
        Ok(symbol)
    }

    fn string(&mut self, set: Language) -> Result<SymIdx, Refusal> {
        let quote = || Language::Byte(b'"');
        self.terminal("string", Language::Concat(vec![quote(), set, quote()]))
    }

    fn possible(&self, node: NodeId) -> bool {
        self.graph.nodes[node].possible
    }

    fn node(&mut self, node: NodeId) -> SymIdx {
        if let Some(symbol) = self.symbols.get(&node) {
            return *symbol;
        }
        let symbol = self.fresh("value");
        self.symbols.insert(node, symbol);
        self.waiting.push(node);
        symbol
    }

    fn fill(&mut self, node: NodeId) -> Result<(), Refusal> {
        let symbol = self.symbols[&node];
        let graph = self.graph;
        let node = &graph.nodes[node];
        let scalars = &node.scalars;
        let words = [
            ("null", scalars.iter().any(|s| s.null)),
            ("false", scalars.iter().any(|s| s.no)),
            ("true", scalars.iter().any(|s| s.yes)),
        ];
        for (word, _) in words.iter().filter(|(_, allowed)| *allowed) {
            let word = self.literal(word)?;
            self.rule(symbol, &[word])?;
        }
        let numbers: Vec<Language> = scalars.iter().filter_map(|s| s.number_forms()).collect();
        if !numbers.is_empty() {
            let number = self.terminal("number", Language::Or(numbers))?;
            self.rule(symbol, &[number])?;
        }
        let strings: Vec<Language> = scalars.iter().filter_map(|s| s.strings.clone()).collect();
        if !strings.is_empty() {
            let string = self.string(Language::Or(strings))?;
            self.rule(symbol, &[string])?;
        }
        for arrays in node.arrays.iter().filter(|arrays| graph.possible_array(arrays)) {
            let array = self.array(arrays)?;
            self.rule(symbol, &array)?;
        }
        for objects in node.objects.iter().filter(|objects| graph.possible_object(objects)) {
            let object = self.object(objects)?;
            self.rule(symbol, &object)?;
        }
        Ok(())
    }

    fn array(&mut self, arrays: &Arrays) -> Result<Vec<SymIdx>, Refusal> {
        let comma = self.literal(",")?;
        let first = arrays.first.iter().take_while(|node| self.possible(**node)).count();
        let all_first = first == arrays.first.len();
        let max = if all_first && self.possible(arrays.rest) { arrays.max } else { arrays.max.min(first) };
        // From the end: what may follow `i` items.
        let mut after = if max > first {
            let rest = self.node(arrays.rest);
            let more = self.either("item", &[vec![comma, rest]])?;
            // Without first items, the first of the rest has no comma before it.
            let taken = first.max(1);
            let (low, high) = (arrays.min.saturating_sub(taken), (max != usize::MAX).then(|| max - taken));
            let tail = self.repeated(more, low, high)?;
            if first == 0 {
                let mut all = vec![vec![rest, tail]];
                all.extend((arrays.min == 0).then(Vec::new));
                self.either("items", &all)?
            } else {
                tail
            }
        } else {
            self.either("end", &[vec![]])?
        };
        for i in (0..first.min(max)).rev() {
            let item = self.node(arrays.first[i]);
            let mut all = vec![if i == 0 { vec![item, after] } else { vec![comma, item, after] }];
            all.extend((arrays.min <= i).then(Vec::new));
            after = self.either("items", &all)?;
        }
        Ok(vec![self.literal("[")?, after, self.literal("]")?])
    }

    /// A symbol from `low` to `high` times.
    fn repeated(&mut self, symbol: SymIdx, low: usize, high: Option<usize>) -> Result<SymIdx, Refusal> {
        let start = self.exactly(symbol, low)?;
        let more = match high {
            Some(high) => self.at_most(symbol, high - low)?,
            None => {
                let any = self.fresh("any");
                self.rule(any, &[])?;
                self.rule(any, &[any, symbol])?;
                any
            }
        };
        self.either("repeated", &[vec![start, more]])
    }

    fn exactly(&mut self, symbol: SymIdx, count: usize) -> Result<SymIdx, Refusal> {
        match count {
            0 => self.either("none", &[vec![]]),
            1 => Ok(symbol),
            _ => {
                let half = self.exactly(symbol, count / 2)?;
                let odd = (count % 2 == 1).then_some(symbol);
                self.either("twice", &[[half, half].into_iter().chain(odd).collect()])
            }
        }
    }

    /// In groups of four, so that there are few rules: all groups and what is left, or fewer groups and up to three.
    fn at_most(&mut self, symbol: SymIdx, count: usize) -> Result<SymIdx, Refusal> {
        if count < 16 {
            let mut all = self.either("none", &[vec![]])?;
            for _ in 0..count {
                all = self.either("most", &[vec![], vec![symbol, all]])?;
            }
            return Ok(all);
        }
        let four = self.exactly(symbol, 4)?;
        let (groups, left) = (self.exactly(four, count / 4)?, self.at_most(symbol, count % 4)?);
        let (fewer, three) = (self.at_most(four, count / 4 - 1)?, self.at_most(symbol, 3)?);
        self.either("most", &[vec![groups, left], vec![fewer, three]])
    }

    fn object(&mut self, objects: &Objects) -> Result<Vec<SymIdx>, Refusal> {
        let graph = self.graph;
        let colon = self.literal(":")?;
        let mut named = Vec::new();
        for (name, node, required) in objects.named.iter().filter(|(_, node, _)| graph.nodes[*node].possible) {
            let (name, value) = (self.literal(&format!("\"{}\"", quoted(name)))?, self.node(*node));
            named.push((self.either("member", &[vec![name, colon, value]])?, *required));
        }
        let mut others = Vec::new();
        for (names, node) in objects.others.iter().filter(|(_, node)| graph.nodes[*node].possible) {
            let (name, value) = (self.string(names.clone())?, self.node(*node));
            others.push(vec![name, colon, value]);
        }
        let required = named.iter().filter(|(_, required)| *required).count();
        if !others.is_empty() && objects.min > required + 1 && objects.max > required {
            let cause = "more than one member without a fixed name cannot be counted, as a name may come twice";
            return Err(Refusal::new(&format!("{}/minProperties", objects.place), cause));
        }
        let other = if others.is_empty() { None } else { Some(self.either("other", &others)?) };
        let comma = self.literal(",")?;
        let mut members = Members { named, other, comma, min: objects.min, max: objects.max, known: HashMap::new() };
        let Some(body) = self.members(&mut members, 0, 0)? else {
            return Err(Refusal::new(&objects.place, "no number of members fits it"));
        };
        Ok(vec![self.literal("{")?, body, self.literal("}")?])
    }

    /// The members from the `next` named one on, when `count` are already there; None if there are no such members.
    fn members(&mut self, all: &mut Members, next: usize, count: usize) -> Result<Option<SymIdx>, Refusal> {
        if count > all.max {
            return Ok(None);
        }
        // Where there is no maximum, more than the minimum need not be told apart.
        let count = if all.max == usize::MAX { count.min(all.min.max(1)) } else { count };
        if let Some(known) = all.known.get(&(next, count)) {
            return Ok(*known);
        }
        let before = |all: &Members| if count == 0 { vec![] } else { vec![all.comma] };
        let mut choices = Vec::new();
        if let Some((member, required)) = all.named.get(next).copied() {
            if let Some(rest) = self.members(all, next + 1, count + 1)? {
                choices.push([before(all), vec![member, rest]].concat());
            }
            if !required && let Some(rest) = self.members(all, next + 1, count)? {
                choices.push(vec![rest]);
            }
        } else {
            choices.extend((count >= all.min).then(Vec::new));
            if let Some(other) = all.other
                && count < all.max
            {
                let more = self.either("more", &[vec![all.comma, other]])?;
                let high = (all.max != usize::MAX).then(|| all.max - count - 1);
                let tail = self.repeated(more, 0, high)?;
                // One is enough for the minimum, or the schema was refused.
                choices.extend((count + 1 >= all.min).then(|| [before(all), vec![other, tail]].concat()));
            }
        }
        let symbol = if choices.is_empty() { None } else { Some(self.either("members", &choices)?) };
        all.known.insert((next, count), symbol);
        Ok(symbol)
    }
}

/// The members of an object.
struct Members {
    named: Vec<(SymIdx, bool)>,
    other: Option<SymIdx>,
    comma: SymIdx,
    min: usize,
    max: usize,
    known: HashMap<(usize, usize), Option<SymIdx>>,
}
