"""Why an endpoint gave no usable answer: the reasons that stages share that ask endpoints."""

OF_ENDPOINTS = {
    "http_4xx": "the server refuses this request; the status is in the detail",
    "http_429": "too many requests, in every try",
    "http_5xx": "any fault of the server, in every try",
    "timeout": "no answer in time, in every try",
    "connection": "refused, reset, or closed before the end, in every try",
    "bad_answer": "no JSON, or not what the protocol asks for",
    "filtered": "the server's own filter held the answer back",
    "too_long": "the request is longer than the model's context",
    "empty_answer": "nothing but white space",
    "says_key": "it holds a key of an endpoint or of a store, or a part of one; it is not stored",
}
OF_ANSWERS = {
    "thinking": "thoughts alone: the answer itself did not come",
    "loops": "it says the same again and again",
}
RETRYABLE = {"http_429", "http_5xx", "timeout", "connection", "bad_answer"}
