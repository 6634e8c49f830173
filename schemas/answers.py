"""Why an endpoint gave no usable answer: the reasons shared by all stages that ask endpoints."""

OF_ENDPOINTS = {
    "http_4xx": "the server refuses this request; the status is in the detail",
    "http_429": "too many requests, in every try",
    "http_5xx": "a server error, in every try",
    "timeout": "no answer in time, in every try",
    "connection": "refused, reset, or closed before the end, in every try",
    "bad_answer": "the response is not JSON, or does not follow the protocol",
    "filtered": "the server's own filter withheld the answer",
    "too_long": "the request is longer than the model's context",
    "empty_answer": "only white space",
    "says_key": "it holds a key of an endpoint or of a store, or a part of one; it is not stored",
}
OF_ANSWERS = {
    "thinking": "only thoughts: the answer itself is missing",
    "loops": "it repeats itself",
}
RETRYABLE = {"http_429", "http_5xx", "timeout", "connection", "bad_answer"}
