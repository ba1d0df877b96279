//! Where something stands in its `.proto` file, and the comment beside it.

use std::collections::HashMap;

use prost_build::Comments;
use prost_reflect::{
    EnumDescriptor, FieldDescriptor, FileDescriptor, MessageDescriptor, MethodDescriptor, ServiceDescriptor,
};

use crate::error::Problem;

/// Field numbers within `descriptor.proto` that lead from a thing to its options.
const MESSAGE_OPTIONS: i32 = 7;
const FIELD_OPTIONS: i32 = 8;
const METHOD_OPTIONS: i32 = 4;

/// A path within a file's descriptor, as `SourceCodeInfo` uses it.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    file: FileDescriptor,
    path: Vec<i32>,
}

impl Place {
    pub(crate) fn of_file(file: &FileDescriptor) -> Place {
        Place { file: file.clone(), path: Vec::new() }
    }

    pub(crate) fn of_message(message: &MessageDescriptor) -> Place {
        Place { file: message.parent_file(), path: message.path().to_vec() }
    }

    pub(crate) fn of_field(field: &FieldDescriptor) -> Place {
        Place { file: field.parent_file(), path: field.path().to_vec() }
    }

    pub(crate) fn of_enum(enumeration: &EnumDescriptor) -> Place {
        Place { file: enumeration.parent_file(), path: enumeration.path().to_vec() }
    }

    pub(crate) fn of_service(service: &ServiceDescriptor) -> Place {
        Place { file: service.parent_file(), path: service.path().to_vec() }
    }

    pub(crate) fn of_method(method: &MethodDescriptor) -> Place {
        Place { file: method.parent_file(), path: method.path().to_vec() }
    }

    /// Within the options of a message.
    pub(crate) fn of_message_option(message: &MessageDescriptor, path: &[i32]) -> Place {
        Place::of_message(message).inside(&[MESSAGE_OPTIONS]).inside(path)
    }

    /// Within the options of a field.
    pub(crate) fn of_field_option(field: &FieldDescriptor, path: &[i32]) -> Place {
        Place::of_field(field).inside(&[FIELD_OPTIONS]).inside(path)
    }

    /// Within the options of an rpc.
    pub(crate) fn of_method_option(method: &MethodDescriptor, path: &[i32]) -> Place {
        Place::of_method(method).inside(&[METHOD_OPTIONS]).inside(path)
    }

    fn inside(mut self, more: &[i32]) -> Place {
        self.path.extend_from_slice(more);
        self
    }
}

/// How the files were found on disk, by import name.
#[derive(Debug, Default)]
pub(crate) struct Files(HashMap<String, String>);

impl Files {
    pub(crate) fn new(paths: impl IntoIterator<Item = (String, String)>) -> Files {
        Files(paths.into_iter().collect())
    }

    /// A problem at `place`, or at the nearest thing around it whose place is known.
    pub(crate) fn problem(&self, place: &Place, text: String, help: String) -> Problem {
        let name = place.file.name();
        let file = self.0.get(name).cloned().unwrap_or_else(|| name.to_owned());
        let (line, column) = line_and_column(place);
        Problem { file, line, column, text, help }
    }
}

fn line_and_column(place: &Place) -> (u32, u32) {
    let Some(info) = &place.file.file_descriptor_proto().source_code_info else { return (0, 0) };
    for length in (0..=place.path.len()).rev() {
        let around = &place.path[..length];
        let inner = info.location.iter().filter(|location| location.path.starts_with(around));
        // An option may be written in parts, `(mesh.v1.event).key = …`: then only the parts have places.
        if let Some(location) = inner.min_by_key(|location| location.path.len())
            && let [line, column, ..] = location.span[..]
        {
            return (one_based(line), one_based(column));
        }
    }
    (0, 0)
}

fn one_based(number: i32) -> u32 {
    u32::try_from(number).map_or(0, |n| n + 1)
}

/// The comments at `place`, as Rust documentation.
pub(crate) fn comments(place: &Place) -> Comments {
    let info = place.file.file_descriptor_proto().source_code_info.as_ref();
    let location = info.and_then(|info| info.location.iter().find(|location| location.path == place.path));
    let lines = |text: &Option<String>| text.iter().flat_map(|text| text.lines()).map(str::to_owned).collect();
    location.map_or_else(Comments::default, |location| Comments {
        leading_detached: Vec::new(),
        leading: lines(&location.leading_comments),
        trailing: lines(&location.trailing_comments),
    })
}
