//! One request, from its first byte to its answer: route, authorize, hand to the verb.

use std::sync::Arc;

use http::header::ACCEPT;
use http::{Method, Request, Response};
use hyper::body::Incoming;
use jiff::Timestamp;

use crate::authn::{self, User};
use crate::authz::{self, Attempt};
use crate::body;
use crate::discovery;
use crate::nodes;
use crate::request::{self, Query, Route, Target};
use crate::rest::{self, Answer, Api, Body, Call, json_response, typed_response};
use crate::status::{ApiError, ApiResult};

pub async fn handle(api: Arc<Api>, user: Option<User>, request: Request<Incoming>) -> Response<Body> {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let asked_by = authenticate(user, &request).and_then(|user| authn::impersonated(user, request.headers()));
    let answer = match asked_by {
        Ok(user) => dispatch(api, user, request).await,
        Err(error) => Err(error),
    };
    match answer {
        Ok(response) => {
            tracing::debug!(%method, path, code = response.status().as_u16(), "answered");
            response
        }
        Err(error) => {
            tracing::debug!(%method, path, code = error.code, message = error.message, "refused");
            rest::error_response(&error)
        }
    }
}

/// A client certificate, or nobody. Credentials of a kind that is not known here are refused.
fn authenticate(user: Option<User>, request: &Request<Incoming>) -> ApiResult<User> {
    match user {
        Some(user) => Ok(user),
        None if request.headers().contains_key(http::header::AUTHORIZATION) => {
            Err(ApiError::new(401, "Unauthorized", "Unauthorized"))
        }
        None => Ok(User::anonymous()),
    }
}

async fn dispatch(api: Arc<Api>, user: User, request: Request<Incoming>) -> Answer {
    let path = request.uri().path().to_owned();
    match request::route(&path) {
        Route::Object(target) => object(api, user, target, request).await,
        route => {
            let verb = request.method().as_str().to_lowercase();
            let verb = if verb == "head" { "get" } else { &verb };
            let attempt = Attempt::Path { verb, path: &path };
            if !api.authorizer.allows(&user, &attempt, &*api) {
                return Err(authz::refusal(&user, &attempt));
            }
            plain(route, &request)
        }
    }
}

/// Everything that is no object.
fn plain(route: Route, request: &Request<Incoming>) -> Answer {
    if matches!(route, Route::Unknown) {
        return Err(ApiError::no_path());
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return Err(ApiError::new(
            405,
            "MethodNotAllowed",
            "the server does not allow this method on the requested resource",
        ));
    }
    let accept = accept(request);
    let aggregated = discovery::wants_aggregated(accept);
    match route {
        Route::Health => Ok(typed_response(200, "text/plain; charset=utf-8", "ok")),
        Route::Version => Ok(json_response(200, discovery::version().to_string())),
        Route::CoreVersions => Ok(discovery::groups(true, aggregated)),
        Route::Groups => Ok(discovery::groups(false, aggregated)),
        Route::Group(name) => Ok(json_response(200, discovery::group(&name)?.to_string())),
        Route::GroupVersion(group, version) => {
            Ok(json_response(200, discovery::resources(&group, &version)?.to_string()))
        }
        Route::OpenApiOld => discovery::openapi_old(accept),
        Route::OpenApiIndex => Ok(json_response(200, discovery::openapi_index().to_string())),
        Route::OpenApi(path) => discovery::openapi_document(&path),
        Route::Object(_) | Route::Unknown => Err(ApiError::no_path()),
    }
}

fn accept(request: &Request<Incoming>) -> Option<&str> {
    request.headers().get(ACCEPT).and_then(|value| value.to_str().ok())
}

async fn object(api: Arc<Api>, user: User, target: Target, request: Request<Incoming>) -> Answer {
    let query = Query::parse(request.uri().query().unwrap_or_default());
    let resource = target.resource;
    let verb =
        request::verb(request.method(), &target, &query).ok_or_else(|| ApiError::method_not_allowed(resource))?;
    if target.subresource.is_none() && !resource.verbs.contains(&verb) {
        return Err(ApiError::method_not_allowed(resource));
    }
    let attempt = Attempt::Object {
        verb,
        resource,
        subresource: target.subresource.as_deref().unwrap_or_default(),
        namespace: target.namespace(),
        name: target.name(),
    };
    if !api.authorizer.allows(&user, &attempt, &*api) {
        return Err(authz::refusal(&user, &attempt));
    }
    match target.subresource.as_deref() {
        Some("log") if verb == "get" => return nodes::log(&api, &target, &query, request).await,
        Some("exec") => return nodes::session(&api, &target, &query, request, "exec").await,
        Some("attach") => return nodes::session(&api, &target, &query, request, "attach").await,
        Some("portforward") => return nodes::port_forward(&api, &target, request).await,
        Some("proxy") => return nodes::proxy(&api, &target, request).await,
        _ => {}
    }
    let form = request::accepted_form(accept(&request)).ok_or_else(ApiError::not_acceptable)?;
    let (parts, incoming) = request.into_parts();
    let target = Target { resource: resource.stored(), ..target };
    let call = Call { api, user, target, asked: resource, query, form, headers: parts.headers, now: Timestamp::now() };
    let body = body::read(incoming).await?;
    match (verb, call.target.subresource.as_deref()) {
        ("get", None) if call.query.is_set("watch") => rest::watch::watch(&call),
        ("get", None | Some("status" | "scale")) => rest::read::get(&call),
        ("list", None) => rest::read::list(&call),
        ("watch", None) => rest::watch::watch(&call),
        ("create", None) if rest::review::is_question(resource) => rest::review::create(&call, &body),
        ("create", None) if call.target.name.is_none() => rest::create::create(&call, body).await,
        ("create", Some("eviction")) => rest::evict::evict(&call, body).await,
        ("create", Some("binding")) => rest::create::bind(&call, body).await,
        ("update", None | Some("status" | "scale" | "finalize")) => rest::update::replace(&call, body).await,
        ("patch", None | Some("status" | "scale")) => rest::update::patch(&call, body).await,
        ("delete", None) => rest::delete::delete(&call, body).await,
        ("deletecollection", None) => rest::delete::delete_collection(&call, body).await,
        _ => Err(ApiError::method_not_allowed(resource)),
    }
}
