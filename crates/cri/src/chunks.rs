//! Lists in several messages, for nodes whose lists do not fit into one.

use prost::Message;
use slipway_engine as engine;
use tokio_stream::{self as stream};
use tonic::codegen::BoxStream;
use tonic::{Response, Status};

use crate::status::status;

/// A message is sent once it has come to this size, in bytes: small beside the largest that clients
/// take, large beside what a message costs.
const ENOUGH: usize = 1 << 20;

/// Answers a list, item by item in its order, in messages that `wrap` makes; none for an empty
/// list. An error of the list is the error of the call.
pub(crate) fn answer<T: Message, R: Send + 'static>(
    list: engine::Result<Vec<T>>,
    wrap: fn(Vec<T>) -> R,
) -> Result<Response<BoxStream<R>>, Status> {
    let items = list.map_err(|error| status(&error))?;
    let messages: Vec<_> = pack(items, ENOUGH)
        .into_iter()
        .map(|items| Ok(wrap(items)))
        .collect();
    Ok(Response::new(Box::pin(stream::iter(messages))))
}

/// Groups of items that come to `enough` bytes with their last one, but for the last group.
fn pack<T: Message>(items: Vec<T>, enough: usize) -> Vec<Vec<T>> {
    let mut groups = Vec::new();
    let mut group = Vec::new();
    let mut size = 0;
    for item in items {
        size += item.encoded_len();
        group.push(item);
        if size >= enough {
            groups.push(std::mem::take(&mut group));
            size = 0;
        }
    }
    if !group.is_empty() {
        groups.push(group);
    }
    groups
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use slipway_cri_api::v1::PodSandbox;

    use super::*;

    fn pod(size: usize) -> PodSandbox {
        PodSandbox {
            id: "x".repeat(size),
            ..Default::default()
        }
    }

    #[test]
    fn an_empty_list_is_no_message() {
        assert!(pack(Vec::<PodSandbox>::new(), 10).is_empty());
    }

    proptest! {
        #[test]
        fn nothing_is_lost_and_no_message_is_larger_than_it_must_be(
            sizes in proptest::collection::vec(0..200_usize, 0..50),
            enough in 1..500_usize,
        ) {
            let items: Vec<_> = sizes.iter().map(|&size| pod(size)).collect();
            let groups = pack(items.clone(), enough);
            prop_assert_eq!(groups.concat(), items);
            let size = |group: &[PodSandbox]| group.iter().map(Message::encoded_len).sum::<usize>();
            for (index, group) in groups.iter().enumerate() {
                prop_assert!(!group.is_empty());
                prop_assert!(size(&group[..group.len() - 1]) < enough);
                prop_assert!(size(group) >= enough || index == groups.len() - 1);
            }
        }
    }
}
