//! Objects by their fields: the set of one, the differences of two, the merge of two, and the rest
//! when somebody gives fields up.

use serde_json::{Map, Value};

use super::fields::FieldSet;
use super::form::Form;

/// Why a configuration cannot be applied.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ShapeError {
    #[error("{path}: element {at}: associative list with keys has an element that omits key field \"{key}\"")]
    MissingKey { path: String, at: usize, key: &'static str },
    #[error("{path}: duplicate entries for key {key}")]
    Duplicate { path: String, key: String },
}

/// Every keyed element has its keys, and no two the same.
pub(super) fn check(form: Form, value: &Value, path: &str) -> Result<(), ShapeError> {
    match value {
        Value::Object(members) => {
            members.iter().try_for_each(|(name, member)| check(form.under(name), member, &format!("{path}.{name}")))
        }
        Value::Array(elements) if matches!(form, Form::Keyed(..) | Form::Set) => {
            let mut seen = Vec::new();
            for (at, element) in elements.iter().enumerate() {
                let step = form.step_to(element);
                let key = step.map_err(|key| ShapeError::MissingKey { path: path.to_owned(), at, key })?;
                if seen.contains(&key) {
                    return Err(ShapeError::Duplicate { path: path.to_owned(), key });
                }
                check(form.under(""), element, &format!("{path}[{at}]"))?;
                seen.push(key);
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

/// All fields of a value.
pub(super) fn fields(form: Form, value: &Value) -> FieldSet {
    let mut set = FieldSet::default();
    match (form, value) {
        (Form::Struct(_) | Form::Map(_), Value::Object(members)) => {
            for (name, member) in members {
                let mut below = fields(form.under(name), member);
                let is_bare = member.is_null() || member.as_object().is_some_and(Map::is_empty);
                below.is_owned |= is_bare || matches!(form, Form::Map(_));
                set.put(format!("f:{name}"), below);
            }
        }
        (Form::Keyed(..) | Form::Set, Value::Array(elements)) => {
            for element in elements {
                let Ok(step) = form.step_to(element) else { continue };
                let below =
                    if matches!(form, Form::Set) { FieldSet::default() } else { fields(form.under(""), element) };
                set.put(step, below.union(&FieldSet::place()));
            }
        }
        _ => set.is_owned = true,
    }
    set
}

/// How a value became another.
#[derive(Default)]
pub(super) struct Changes {
    pub added: FieldSet,
    pub changed: FieldSet,
    pub removed: FieldSet,
}

pub(super) fn changes(form: Form, old: Option<&Value>, new: Option<&Value>) -> Changes {
    let mut all = Changes::default();
    let parts = match (form, old.or(new)) {
        (Form::Struct(_) | Form::Map(_), Some(Value::Object(_))) => members(old, new),
        (Form::Keyed(..) | Form::Set, Some(Value::Array(_))) => elements(form, old, new),
        _ => {
            match (old, new) {
                (None, Some(_)) => all.added.is_owned = true,
                (Some(_), None) => all.removed.is_owned = true,
                (Some(old), Some(new)) => all.changed.is_owned = old != new,
                (None, None) => {}
            }
            return all;
        }
    };
    for (step, old, new) in parts {
        let name = step.split_once(':').map_or("", |(_, name)| name);
        let below = changes(form.under(name), old, new);
        all.added.put(step.clone(), below.added);
        all.changed.put(step.clone(), below.changed);
        all.removed.put(step, below.removed);
    }
    all.added.is_owned |= old.is_none() && new.is_some();
    all.removed.is_owned |= new.is_none() && old.is_some();
    all
}

type Part<'a> = (String, Option<&'a Value>, Option<&'a Value>);

fn members<'a>(old: Option<&'a Value>, new: Option<&'a Value>) -> Vec<Part<'a>> {
    let (old, new) = (old.and_then(Value::as_object), new.and_then(Value::as_object));
    let kept = old.into_iter().flatten().map(|(name, value)| (name, Some(value), new.and_then(|new| new.get(name))));
    let is_new = |name: &&String| old.is_none_or(|old| !old.contains_key(*name));
    let fresh =
        new.into_iter().flatten().filter(|(name, _)| is_new(name)).map(|(name, value)| (name, None, Some(value)));
    kept.chain(fresh).map(|(name, old, new)| (format!("f:{name}"), old, new)).collect()
}

fn elements<'a>(form: Form, old: Option<&'a Value>, new: Option<&'a Value>) -> Vec<Part<'a>> {
    let (old, new) = (steps(form, old), steps(form, new));
    let find =
        |list: &[(String, &'a Value)], step: &str| list.iter().find(|(at, _)| at == step).map(|(_, value)| *value);
    let kept = old.iter().map(|(step, value)| (step.clone(), Some(*value), find(&new, step)));
    let fresh = new.iter().filter(|(step, _)| find(&old, step).is_none());
    kept.chain(fresh.map(|(step, value)| (step.clone(), None, Some(*value)))).collect()
}

fn steps(form: Form, list: Option<&Value>) -> Vec<(String, &Value)> {
    let elements = list.and_then(Value::as_array);
    elements.into_iter().flatten().filter_map(|element| Some((form.step_to(element).ok()?, element))).collect()
}

/// `config` laid over `live`, part by part.
pub(super) fn merge(form: Form, live: Option<&Value>, config: &Value) -> Value {
    match (form, live, config) {
        (Form::Struct(_) | Form::Map(_), Some(Value::Object(live)), Value::Object(config)) => {
            let mut merged = live.clone();
            for (name, value) in config {
                merged.insert(name.clone(), merge(form.under(name), live.get(name), value));
            }
            Value::Object(merged)
        }
        (Form::Keyed(..) | Form::Set, Some(Value::Array(live)), Value::Array(config)) => {
            Value::Array(merge_lists(form, live, config))
        }
        _ => config.clone(),
    }
}

/// The order is the configuration's; an element that only `live` has stays before those it stood before.
fn merge_lists(form: Form, live: &[Value], config: &[Value]) -> Vec<Value> {
    let step = |element: &Value| form.step_to(element).ok();
    let wanted: Vec<Option<String>> = config.iter().map(step).collect();
    let mut rest: Vec<(Option<String>, &Value)> = live.iter().map(|element| (step(element), element)).collect();
    let mut merged = Vec::with_capacity(live.len() + config.len());
    for (at, element) in wanted.iter().zip(config) {
        let Some(place) = rest.iter().position(|(own, _)| own.is_some() && own == at) else {
            merged.push(element.clone());
            continue;
        };
        let (_, own) = rest.remove(place);
        let later = rest.split_off(place.min(rest.len()));
        let (stays, before): (Vec<_>, Vec<_>) = rest.into_iter().partition(|(own, _)| wanted.contains(own));
        merged.extend(before.into_iter().map(|(_, own)| own.clone()));
        merged.push(merge(form.under(""), Some(own), element));
        rest = stays.into_iter().chain(later).collect();
    }
    merged.extend(rest.into_iter().filter(|(own, _)| !wanted.contains(own)).map(|(_, own)| own.clone()));
    merged
}

fn is_bare(value: &Value) -> bool {
    value.as_array().is_some_and(Vec::is_empty) || value.as_object().is_some_and(Map::is_empty)
}

/// Takes out what `given_up` holds and nobody in `owned` has any part of.
pub(super) fn prune(form: Form, value: &mut Value, given_up: &FieldSet, owned: &FieldSet) {
    let nothing = FieldSet::default();
    for (step, below) in &given_up.below {
        let kept = owned.below.get(step);
        let name = step.split_once(':').map_or("", |(_, name)| name);
        let part = form.under(name);
        // A struct whose owned members all go, goes; an element of a list only if it is owned itself.
        let is_struct = step.starts_with("f:") && matches!(part, Form::Struct(_));
        let goes = kept.is_none() && (below.is_owned || is_struct);
        match value {
            Value::Object(members) if goes => drop(members.remove(name)),
            Value::Object(members) => {
                let Some(member) = members.get_mut(name) else { continue };
                prune(part, member, below, kept.unwrap_or(&nothing));
                // A list or map that nobody holds as such goes with its last element.
                if is_bare(member) && !kept.is_some_and(|kept| kept.is_owned) {
                    members.remove(name);
                }
            }
            Value::Array(elements) if goes => elements.retain(|element| form.step_to(element).as_ref() != Ok(step)),
            Value::Array(elements) => {
                let element = elements.iter_mut().find(|element| form.step_to(element).as_ref() == Ok(step));
                if let Some(element) = element {
                    prune(part, element, below, kept.unwrap_or(&nothing));
                }
            }
            _ => {}
        }
    }
}
