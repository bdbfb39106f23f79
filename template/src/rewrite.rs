//! From a template's text to the engine's instructions, with Python's operators in place of the engine's.
//!
//! ```text
//! text --(spelling)--> text --(parse)--> tree --(operators become filters)--> tree --(code)--> instructions
//! ```
//!
//! `a + b` becomes a filter named `+`, which no template can name itself. So do attributes, items, slices, calls of
//! methods, the sequences of loops, and names, so that undefined ones know what is missing. Plain text becomes a
//! printed constant, so that all output is counted in one place.

use crate::error::{Resource, TemplateError};
use crate::limits::{BRANCHES, NAME, SOURCE, TOKENS};
use minijinja::Value;
use minijinja::machinery::ast::{self, BinOpKind, CallArg, CompareOpKind, Expr, Spanned, Stmt, UnaryOpKind};
use minijinja::machinery::{Span, Token, parse, tokenize};
use minijinja::syntax::SyntaxConfig;

/// The language as transformers sets it up.
pub(crate) fn syntax() -> SyntaxConfig {
    SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build().unwrap_or_default()
}

fn syntax_error(error: &minijinja::Error) -> TemplateError {
    let cause = error.detail().map_or_else(|| error.kind().to_string(), str::to_string);
    TemplateError::Syntax { line: error.line().unwrap_or(1), cause }
}

/// Checks a template's text against the limits, and reads it.
pub(crate) fn read<'t>(source: &'t str) -> Result<Stmt<'t>, TemplateError> {
    let limit = |what, limit: usize| TemplateError::Limit { what, limit: limit as u64 };
    if source.len() > SOURCE {
        return Err(limit(Resource::Source, SOURCE));
    }
    // The parser, and every pass over the tree, may recurse as deep as these numbers.
    let (mut run, mut branches) = (0, 0);
    for token in tokenize(source, false, syntax()) {
        match token.map_err(|e| syntax_error(&e))?.0 {
            Token::TemplateData(_) | Token::VariableStart | Token::BlockStart => run = 0,
            Token::Ident("elif") => branches += 1,
            Token::Ident(name) if name.len() > NAME => return Err(limit(Resource::Name, NAME)),
            _ => run += 1,
        }
        if run > TOKENS {
            return Err(limit(Resource::Words, TOKENS));
        }
        if branches > BRANCHES {
            return Err(limit(Resource::Branches, BRANCHES));
        }
    }
    let tree = parse(source, "chat template", syntax()).map_err(|e| syntax_error(&e))?;
    stmt(&tree)
}

type Read<T> = Result<T, TemplateError>;

fn filter<'t>(name: &'t str, operand: Expr<'t>, args: Vec<Expr<'t>>, span: Span) -> Expr<'t> {
    let args = args.into_iter().map(CallArg::Pos).collect();
    Expr::Filter(Spanned::new(ast::Filter { name, expr: Some(operand), args }, span))
}

fn constant<'t>(value: impl Into<Value>, span: Span) -> Expr<'t> {
    Expr::Const(Spanned::new(ast::Const { value: value.into() }, span))
}

fn stmts<'t>(all: &[Stmt<'t>]) -> Read<Vec<Stmt<'t>>> {
    all.iter().map(stmt).collect()
}

fn refuse<T>(span: Span, cause: &str) -> Read<T> {
    Err(TemplateError::Syntax { line: span.start_line.into(), cause: cause.to_string() })
}

fn stmt<'t>(node: &Stmt<'t>) -> Read<Stmt<'t>> {
    Ok(match node {
        Stmt::Template(s) => Stmt::Template(Spanned::new(ast::Template { children: stmts(&s.children)? }, s.span())),
        Stmt::EmitExpr(s) => Stmt::EmitExpr(Spanned::new(ast::EmitExpr { expr: expr(&s.expr)? }, s.span())),
        Stmt::EmitRaw(s) => Stmt::EmitExpr(Spanned::new(ast::EmitExpr { expr: constant(s.raw, s.span()) }, s.span())),
        Stmt::ForLoop(s) => {
            let node = ast::ForLoop {
                target: target(&s.target)?,
                iter: for_target(&s.target, filter("$iter", expr(&s.iter)?, vec![], s.iter.span())),
                filter_expr: s.filter_expr.as_ref().map(expr).transpose()?,
                recursive: s.recursive,
                body: stmts(&s.body)?,
                else_body: stmts(&s.else_body)?,
            };
            Stmt::ForLoop(Spanned::new(node, s.span()))
        }
        Stmt::IfCond(s) => {
            let node = ast::IfCond {
                expr: expr(&s.expr)?,
                true_body: stmts(&s.true_body)?,
                false_body: stmts(&s.false_body)?,
            };
            Stmt::IfCond(Spanned::new(node, s.span()))
        }
        Stmt::WithBlock(s) => {
            // All values are evaluated before any name is assigned.
            let (names, values): (Vec<_>, Vec<_>) =
                s.assignments.iter().map(|(to, from)| (target(to), expr(from))).unzip();
            let (items, values) = (names.into_iter().collect::<Read<_>>()?, values.into_iter().collect::<Read<_>>()?);
            let to = Expr::List(Spanned::new(ast::List { items }, s.span()));
            let from = for_target(&to, Expr::Tuple(Spanned::new(ast::Tuple { items: values }, s.span())));
            let assignments = if s.assignments.is_empty() { Vec::new() } else { vec![(to, from)] };
            Stmt::WithBlock(Spanned::new(ast::WithBlock { assignments, body: stmts(&s.body)? }, s.span()))
        }
        Stmt::Set(s) => {
            if let Expr::GetAttr(e) = &s.target
                && e.name.starts_with('_')
            {
                let to = constant(e.name, s.span());
                let expr = filter("$private", to, vec![], s.span());
                return Ok(Stmt::EmitExpr(Spanned::new(ast::EmitExpr { expr }, s.span())));
            }
            let unpacks = matches!(s.target, Expr::List(_));
            let from = expr(&s.expr)?;
            let from = if unpacks { filter("$iter", from, vec![], s.span()) } else { from };
            let from = for_target(&s.target, from);
            Stmt::Set(Spanned::new(ast::Set { target: target(&s.target)?, expr: from }, s.span()))
        }
        Stmt::SetBlock(s) => {
            let filter = s.filter.as_ref().map(expr).transpose()?;
            let node = ast::SetBlock { target: target(&s.target)?, filter, body: stmts(&s.body)? };
            Stmt::SetBlock(Spanned::new(node, s.span()))
        }
        Stmt::AutoEscape(s) => {
            let node = ast::AutoEscape { enabled: expr(&s.enabled)?, body: stmts(&s.body)? };
            Stmt::AutoEscape(Spanned::new(node, s.span()))
        }
        Stmt::FilterBlock(s) => {
            let node = ast::FilterBlock { filter: expr(&s.filter)?, body: stmts(&s.body)? };
            Stmt::FilterBlock(Spanned::new(node, s.span()))
        }
        Stmt::Block(s) => {
            let node = ast::Block { name: s.name, required: s.required, body: stmts(&s.body)? };
            Stmt::Block(Spanned::new(node, s.span()))
        }
        Stmt::Macro(s) => Stmt::Macro(macro_block(s)?),
        Stmt::CallBlock(s) => {
            let call =
                Spanned::new(ast::Call { expr: callee(&s.call.expr)?, args: args(&s.call.args)? }, s.call.span());
            let node = ast::CallBlock { call, macro_decl: macro_block(&s.macro_decl)? };
            Stmt::CallBlock(Spanned::new(node, s.span()))
        }
        Stmt::Continue(s) => Stmt::Continue(Spanned::new(ast::Continue, s.span())),
        Stmt::Break(s) => Stmt::Break(Spanned::new(ast::Break, s.span())),
        Stmt::Do(s) => return refuse(s.span(), "Encountered unknown tag 'do'."),
        Stmt::Import(s) => other_template(s.span()),
        Stmt::FromImport(s) => other_template(s.span()),
        Stmt::Extends(s) => other_template(s.span()),
        Stmt::Include(s) => other_template(s.span()),
    })
}

/// A statement that asks for another template: there is none.
fn other_template<'t>(span: Span) -> Stmt<'t> {
    let expr = filter("$other_template", constant((), span), vec![], span);
    Stmt::EmitExpr(Spanned::new(ast::EmitExpr { expr }, span))
}

fn macro_block<'t>(node: &Spanned<ast::Macro<'t>>) -> Read<Spanned<ast::Macro<'t>>> {
    let args = node.args.iter().map(target).collect::<Read<_>>()?;
    let defaults = node.defaults.iter().map(expr).collect::<Read<_>>()?;
    Ok(Spanned::new(ast::Macro { name: node.name, args, defaults, body: stmts(&node.body)? }, node.span()))
}

/// What is assigned to a target, checked if a namespace is to keep it.
fn for_target<'t>(target: &Expr<'t>, from: Expr<'t>) -> Expr<'t> {
    fn keeps(target: &Expr) -> bool {
        match target {
            Expr::List(e) => e.items.iter().any(keeps),
            other => matches!(other, Expr::GetAttr(_)),
        }
    }
    let span = from.span();
    if keeps(target) { filter("$kept", from, vec![], span) } else { from }
}

/// The target of an assignment: names stay as they are.
fn target<'t>(node: &Expr<'t>) -> Read<Expr<'t>> {
    Ok(match node {
        Expr::Var(e) => Expr::Var(Spanned::new(ast::Var { id: e.id }, e.span())),
        Expr::List(e) => {
            let items = e.items.iter().map(target).collect::<Read<_>>()?;
            Expr::List(Spanned::new(ast::List { items }, e.span()))
        }
        Expr::GetAttr(e) => {
            Expr::GetAttr(Spanned::new(ast::GetAttr { expr: target(&e.expr)?, name: e.name }, e.span()))
        }
        other => return refuse(other.span(), "cannot assign to an expression"),
    })
}

/// The callee of a call: the engine looks up a plain name, because it knows `loop` and `caller`.
fn callee<'t>(node: &Expr<'t>) -> Read<Expr<'t>> {
    match node {
        Expr::Var(_) => target(node),
        Expr::GetAttr(e) => {
            Ok(Expr::GetAttr(Spanned::new(ast::GetAttr { expr: expr(&e.expr)?, name: e.name }, e.span())))
        }
        other => expr(other),
    }
}

fn args<'t>(given: &[CallArg<'t>]) -> Read<Vec<CallArg<'t>>> {
    given
        .iter()
        .map(|arg| {
            Ok(match arg {
                CallArg::Pos(e) => CallArg::Pos(expr(e)?),
                CallArg::Kwarg(name, e) => CallArg::Kwarg(name, expr(e)?),
                CallArg::PosSplat(e) => CallArg::PosSplat(filter("$iter", expr(e)?, vec![], e.span())),
                CallArg::KwargSplat(e) => CallArg::KwargSplat(filter("$names", expr(e)?, vec![], e.span())),
            })
        })
        .collect()
}

fn expr<'t>(node: &Expr<'t>) -> Read<Expr<'t>> {
    let span = node.span();
    Ok(match node {
        Expr::Var(e) if matches!(e.id, "self" | "super") => target(node)?,
        Expr::Var(e) => filter("$name", target(node)?, vec![constant(e.id, span)], span),
        Expr::Const(e) => constant(e.value.clone(), span),
        // Jinja evaluates a slice of a constant while compiling, where it raises no error: the result is undefined.
        Expr::Slice(e)
            if matches!(&e.expr, Expr::Const(c) if c.value.as_str().is_none())
                && [&e.start, &e.stop, &e.step].iter().all(|part| matches!(part, None | Some(Expr::Const(_)))) =>
        {
            filter("$name", constant(Value::UNDEFINED, span), vec![constant("slice", span)], span)
        }
        Expr::Slice(e) => {
            let part = |e: &Option<Expr<'t>>| e.as_ref().map_or_else(|| Ok(constant((), span)), expr);
            filter("$slice", expr(&e.expr)?, vec![part(&e.start)?, part(&e.stop)?, part(&e.step)?], span)
        }
        Expr::UnaryOp(e) => match e.op {
            UnaryOpKind::Not => {
                Expr::UnaryOp(Spanned::new(ast::UnaryOp { op: UnaryOpKind::Not, expr: expr(&e.expr)? }, span))
            }
            UnaryOpKind::Neg => filter("$neg", expr(&e.expr)?, vec![], span),
        },
        Expr::BinOp(e) => {
            let (left, right) = (expr(&e.left)?, expr(&e.right)?);
            match binary(e.op) {
                Some(name) => filter(name, left, vec![right], span),
                None => Expr::BinOp(Spanned::new(ast::BinOp { op: e.op, left, right }, span)),
            }
        }
        Expr::Compare(e) => {
            let mut operands = Vec::with_capacity(2 * e.ops.len());
            for op in &e.ops {
                operands.extend([constant(comparison(op.op), span), expr(&op.expr)?]);
            }
            filter("$chain", expr(&e.expr)?, operands, span)
        }
        Expr::IfExpr(e) => {
            let node = ast::IfExpr {
                test_expr: expr(&e.test_expr)?,
                true_expr: expr(&e.true_expr)?,
                false_expr: match &e.false_expr {
                    Some(e) => Some(expr(e)?),
                    None => Some(filter("$else", constant(u64::from(span.start_line), span), vec![], span)),
                },
            };
            Expr::IfExpr(Spanned::new(node, span))
        }
        Expr::Filter(e) => {
            let operand = e.expr.as_ref().map(expr).transpose()?;
            Expr::Filter(Spanned::new(ast::Filter { name: e.name, expr: operand, args: args(&e.args)? }, span))
        }
        Expr::Test(e) => {
            Expr::Test(Spanned::new(ast::Test { name: e.name, expr: expr(&e.expr)?, args: args(&e.args)? }, span))
        }
        Expr::GetAttr(e) => filter("$attr", expr(&e.expr)?, vec![constant(e.name, span)], span),
        Expr::GetItem(e) => filter("$item", expr(&e.expr)?, vec![expr(&e.subscript_expr)?], span),
        Expr::Call(e) => call(e)?,
        Expr::List(e) => {
            let items = e.items.iter().map(expr).collect::<Read<_>>()?;
            filter("$new", Expr::List(Spanned::new(ast::List { items }, span)), vec![], span)
        }
        Expr::Tuple(e) => {
            let items = e.items.iter().map(expr).collect::<Read<_>>()?;
            filter("$new", Expr::Tuple(Spanned::new(ast::Tuple { items }, span)), vec![], span)
        }
        Expr::Map(e) => {
            let list = |nodes: &[Expr<'t>]| {
                let items = nodes.iter().map(expr).collect::<Read<_>>()?;
                Ok(Expr::List(Spanned::new(ast::List { items }, span)))
            };
            filter("$dict", list(&e.keys)?, vec![list(&e.values)?], span)
        }
    })
}

fn call<'t>(node: &Spanned<ast::Call<'t>>) -> Read<Expr<'t>> {
    let mut args = args(&node.args)?;
    if let Expr::GetAttr(e) = &node.expr
        && !matches!(&e.expr, Expr::Var(v) if v.id == "self")
    {
        args.insert(0, CallArg::Pos(constant(e.name, node.span())));
        let filter = ast::Filter { name: "$call", expr: Some(expr(&e.expr)?), args };
        return Ok(Expr::Filter(Spanned::new(filter, node.span())));
    }
    if matches!(&node.expr, Expr::Var(v) if v.id == "loop") {
        args = args
            .into_iter()
            .map(|arg| match arg {
                CallArg::Pos(e) => CallArg::Pos(filter("$iter", e, vec![], node.span())),
                other => other,
            })
            .collect();
    }
    Ok(Expr::Call(Spanned::new(ast::Call { expr: callee(&node.expr)?, args }, node.span())))
}

/// The name of an operator's filter; None for `and` and `or`, which may skip their right side.
fn binary(op: BinOpKind) -> Option<&'static str> {
    Some(match op {
        BinOpKind::ScAnd | BinOpKind::ScOr => return None,
        BinOpKind::Eq => "==",
        BinOpKind::Ne => "!=",
        BinOpKind::Lt => "<",
        BinOpKind::Lte => "<=",
        BinOpKind::Gt => ">",
        BinOpKind::Gte => ">=",
        BinOpKind::Add => "+",
        BinOpKind::Sub => "-",
        BinOpKind::Mul => "*",
        BinOpKind::Div => "/",
        BinOpKind::FloorDiv => "//",
        BinOpKind::Rem => "%",
        BinOpKind::Pow => "**",
        BinOpKind::Concat => "~",
        BinOpKind::In => "in",
    })
}

fn comparison(op: CompareOpKind) -> &'static str {
    match op {
        CompareOpKind::Eq => "==",
        CompareOpKind::Ne => "!=",
        CompareOpKind::Lt => "<",
        CompareOpKind::Lte => "<=",
        CompareOpKind::Gt => ">",
        CompareOpKind::Gte => ">=",
        CompareOpKind::In => "in",
        CompareOpKind::NotIn => "not in",
    }
}
