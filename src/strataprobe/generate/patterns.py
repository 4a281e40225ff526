"""What gives away that an answer is no plain text: refusals, introductions, comments, lists, quotation marks.

A refusal in the first person is close to what people write ("I can't help with the move", "Sorry, I can't come"), so
each pattern asks for a word that only an assistant would use there.
"""

from __future__ import annotations

import re


def _pattern(*parts: str) -> re.Pattern[str]:
    return re.compile("|".join(parts), re.IGNORECASE | re.MULTILINE)


# Thoughts of a reasoning model: the opening tag may have been in the prompt, the closing one may never have come.
THOUGHTS = re.compile(r"\A.*</think(?:ing)?>|\A\s*<think(?:ing)?>.*", re.DOTALL | re.IGNORECASE)
# What is no text: control characters but tab and newline, what turns the direction of writing, line separators, private
# characters, tags that belong to no flag, and what stands for a character that was lost.
CONTROL = re.compile(
    "[\\x00-\\x08\\x0b-\\x1f\\x7f-\\x9f\\u2028\\u2029\\u202a-\\u202e\\u2066-\\u2069\\ue000-\\uf8ff\\ufdd0-\\ufdef\\ufff9-\\uffff]"
    "|[\\U000f0000-\\U0010ffff]|(?<![\\U0001f3f4\\U000e0020-\\U000e007f])[\\U000e0000-\\U000e007f]"
)
# White space that cannot be seen, and is none to ``str.strip``.
UNSEEN = re.compile("[\u200b\u2060\ufeff\u00ad]")

_AI = r"an? (?:ai|artificial intelligence|(?:large )?language model)"
_SORRY = (
    r"\A(?:(?:i(?:'m| am) (?:so |very |really )*(?:sorry|afraid)|sorry|unfortunately|i apologi[sz]e|my apologies)\b"
    r"[^.!?\n]{0,40}?[.,;:!]?\s+(?:but |however,? )?(?:that )?)?"
)
_CANNOT = (
    r"i(?:(?:'m| am) (?:unable|not able) to"
    r"| (?:can(?:'t|not| not)|won't|will not|am not going to|do(?: not|n't) feel comfortable)) "
)
_WRITE = r"(?:generat|produc|creat|provid|writ|compos)\w*"
_DEAL_WITH = r"(?:fulfil|complet|process|shar|offer|continu|engag|generat|produc|creat|provid|writ|compos)\w*"
_ASKED = r"(?:request|prompt|content|guidelines|polic(?:y|ies)|instructions)"
_STORY = r"(?:(?:kind|type|sort) of )?(?:\w+ )?(?:text|passage|story|material)s?"
REFUSAL = _pattern(
    rf"\bas {_AI}(?: (?:language )?model| assistant| chatbot| system)?(?=[,.;:]| i\b| it\b| my\b|$)",
    rf"\bi(?:'m| am) (?:just |only )?{_AI}(?=[,.;!]| language| model| assistant| chatbot| and\b| so\b| that\b|$)",
    rf"{_SORRY}{_CANNOT}(?:help|assist)(?:ing)?(?: you)?(?:[.!]?\s*\Z| with"
    r" (?:that|this|your|the request|such|creating|writing)\b)",
    rf"{_SORRY}{_CANNOT}(?:comply\b(?:[.!]| with (?:that|this|your|the)\b)|do that for you)",
    rf"{_SORRY}{_CANNOT}{_DEAL_WITH}\b[^.!?\n]{{0,80}}\b{_ASKED}\b",
    rf"{_SORRY}{_CANNOT}{_WRITE} (?:this|that|such|the requested|any)(?: an?)? {_STORY}\b",
    rf"{_SORRY}{_CANNOT}{_WRITE} (?:an? )?{_STORY}"
    r" (?:that|about|in which|on|showing|depicting|containing|involving)\b",
    r"\A[^.!?\n]{0,30}\bi (?:must|have to)(?: respectfully)? decline"
    r" (?:to (?:write|generate|create)|(?:this|your|the) request)",
    rf"\b(?:this|your|the) {_ASKED} (?:violates|goes against|is (?:against|inappropriate|harmful|not something i))",
    r"\b(?:against|violates?) my (?:guidelines|programming|polic(?:y|ies)|safety)|\bcontent polic(?:y|ies)\b",
    r"\bi (?:don't|do not) have personal (?:feelings|emotions|experiences|opinions)\b",
    r"\bals (?:ki|k\u00fcnstliche intelligenz|(?:ki-)?sprachmodell)\b",
    r"\bcomo (?:una? )?(?:ia|inteligencia artificial|modelo de lenguaje)\b",
    r"\ben tant qu(?:'(?:une? )?|e )(?:ia|intelligence artificielle|mod\u00e8le de langage)\b",
    r"\u4f5c\u4e3a(?:\u4e00[\u4e2a\u6b3e\u540d])?\s*(?:ai|\u4eba\u5de5\u667a\u80fd|(?:\u5927\u578b)?\u8bed\u8a00\u6a21\u578b)",
)

# How a letter begins.
GREETING = r"dear|hi|hello|hey|to whom|good (?:morning|evening|afternoon)|my dear(?:est)?"
_KIND = (
    r"(?:text|version|example|response|attempt|paragraph|passage|draft|rewrite|entry|message|letter|post|review|report"
    r"|story)s?"
)
_SURE = r"(?:sure|certainly|of course|absolutely|okay|ok|alright|all right|great|gladly|understood|no problem|got it)"
_HERE = (
    rf"^(?:{_SURE}[ ,.!:\u2013\u2014-]+)?"
    r"(?:here(?:'s| is| are| you go)|below (?:is|are)|the following (?:is|are)|this is)\b"
)
_NEW = r"(?:short|brief|revised|different|first-person|requested|rewritten|sample|possible|new)"
PREAMBLE = _pattern(
    rf"{_HERE}[^.!?:\n]{{0,120}}:[ \t]*$",
    rf"{_HERE}[^.!?:\n]{{0,60}}\b{_KIND}\b[^.!?:\n]{{0,80}}(?::|[.!]?[ \t]*\n)",
    rf"{_HERE}[^.!?:\n]{{0,20}}\b{_NEW}\b[^.!?:\n]{{0,40}}\b{_KIND}(?:[ \t]*:|[ \t]*[.!]?[ \t]*$)",
    rf"^(?:here(?:'s| is| are)|below (?:is|are)) (?!(?:my|our|his|her|their)\b)[^.!?:\n]{{0,20}}\b{_NEW}\b[^.!?:\n]{{0,40}}"
    rf"\b{_KIND}[.!]",
    rf"\A{_SURE}[,.!:]+ here(?:'s| is) (?:an?|your|one|another|the) (?:\w+ )?{_KIND}\b",
    r"\A(?:sure|certainly|absolutely|of course|gladly|understood|no problem)(?:!|[ \t]*[:,.]?[ \t]*\n|:)",
    rf"\A{_SURE}[ ,.!:\u2013\u2014-]+(?:i(?:'ll| will| can|'d be (?:glad|happy) to)|let me) (?:try to |now )?"
    r"(?:write|rewrite|compose|draft|create|provide|give)\b[^.!?\n]{0,60}"
    r"\b(?:text|version|example|attempt|paragraph|passage|response)s?\b",
    r"^[*_# \t]*(?:text|title|output|answer|response|revised(?: text)?|(?:diary|journal) entry|message|draft|version"
    r"|example|attempt)(?: \d+)?[ \t]*[*_]*:",
    # A first line that announces the rest, in any language; a salutation does not.
    rf"\A(?!\W*(?:{GREETING})\b)[^\n]{{0,160}}[:\uff1a][ \t]*\n",
    # A title: a first line without an end, and a blank line. A salutation is none, nor is the date of a diary.
    rf"\A(?!\W*(?:{GREETING})\b)(?![^\n]*(?:\d|\b(?:mon|tues|wednes|thurs|fri|satur|sun)day\b|\bdiary\b))"
    r"[^\n]{0,100}[^\s,;.!?:\u2026\u3002\uff01\uff1f\uff0c\u061f\u060c\u06d4\u0964)\]][ \t]*\n[ \t]*\n",
    rf"(?:^|[.!?] )let me know if [^.!?\n]*\b(?:{_KIND}|changes?|adjust\w*|revis\w*|anything else|another one)\b"
    r"[^.!?\n]*[.!?]?\s*\Z",
    r"(?:^|[.!?] )(?:i )?hope (?:this|that|it) (?:helps|(?:meets|fits|matches|works for)\b[^.!?\n]*)[.!]*\s*\Z",
    r"(?:^|[.!?] )feel free to (?:ask|adjust|modify|edit|change|use|adapt|let me)\b",
    r"(?:^|[.!?] )(?:would you like|do you want) me to"
    r" (?:write|try|revise|change|make|adjust|generate|rewrite|add|provide|create)\b",
    r"^[(\[]?(?:note|word count|sentences?)[ \t]*:|[(\[]\d+ (?:words|sentences)[)\]]",
)
# A line that begins with a date ("3. Mai 2020") is no item of a list.
LIST = re.compile(
    r"^[ \t]*(?:[-*\u2022\u2013][ \t]+|\d{1,2}[.)][ \t]+(?![^\W\d_]+[ \t]+\d{4}\b)|#{1,6}[ \t]|\|)|\*\*|^[ \t]*```",
    re.MULTILINE,
)
# Straight single marks are apostrophes unless they hold a sentence; "'90s" and "'n'" are no quotes either.
QUOTES = re.compile(
    '["\u201c\u201d\u201e\u00ab\u00bb\u300c\u300d\u300e\u300f]'
    r"|\A'.*'\Z"
    r"|(?<!\w)'(?=[A-Z])[^\n]{0,300}?[,.!?\u2026]'(?!\w)"
    "|(?<!\\w)\u2018(?!(?:n|tis|twas|cause|em|til|bout|\\d0s)\\b)[^\u2018\n]{0,300}?\u2019(?!\\w)",
    re.DOTALL,
)
_PICTURE = r"[\s\u200d\ufe0e\ufe0f\u2190-\u2bff\U0001f000-\U0001faff]"
PICTURES_AT_END = re.compile(rf"(?<!{_PICTURE}){_PICTURE}+\Z")
FINISHED = re.compile(r"[.!?\u2026\u3002\uff01\uff1f\u061f\u06d4\u0964][)\]]*\Z")
# A whole answer in quotation marks, with none inside.
QUOTED = re.compile('["\u201c]([^"\u201c\u201d]+)["\u201d]')
