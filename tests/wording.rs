//! Holds what people read to plain English: messages and help of the three programs, the examples of configuration, the documents.
//!
//! Every sentence is read from the sources: string literals, doc comments that clap prints as help, comments of shipped files, Markdown.
//! Each finding is printed as `file:line: "words" (better: ...): sentence`. `docs/glossary.md` has the terms to use.
//! It reads files only; it must not build or run anything.

#[path = "support/sources.rs"]
mod sources;

use proc_macro2::{Delimiter, TokenStream, TokenTree};
use sources::{files, is_test_path};

/// How many findings a crate's messages and help may have. A number is only ever lowered; the goal of each is 0.
const MAX: [(&str, &str, usize); 5] = [
    ("musterd", "src", 90),
    ("muster-cli", "crates/muster-cli/src", 109),
    ("muster-hub", "crates/muster-hub/src", 200),
    ("muster-link", "crates/muster-link/src", 9),
    ("muster-proto", "crates/muster-proto/src", 8),
];

/// Pages of Markdown, files whose comments people read, and folders of both. They have no finding at all.
const DOCUMENTS: &[&str] = &["README.md", "CHANGELOG.md", "docs", "config", "systemd", "packaging/boot/README.md"];

/// Words that read like a translation, and what to write instead. A `*` stands for any one word.
/// Words after `unless before` or `unless after` make the same words plain English again.
const WORDS: &[Words] = &[
    // Persons.
    say("whoever", "anyone who, a person who"),
    say("whom", "who, that").unless_after(&["trusts"]),
    say("somebody", "someone, a person"),
    say("anybody", "anyone"),
    say("everybody", "everyone"),
    say("nobody is", "no one is"),
    say("is nobody", "there is no one"),
    say("nobody may", "no one can"),
    say("himself", "themselves"),
    say("herself", "themselves"),
    say("oneself", "yourself"),
    say("he", "they"),
    say("him", "them"),
    say("his", "their"),
    say("she", "they"),
    say("her", "their"),
    say("one may", "you can"),
    say("may", "can, or might"),
    say("one meets", "you meet"),
    // To tell.
    say("told", "said, reported, sent"),
    say("tells", "shows, says").unless_before(&["them", "you"]),
    say("tell of", "describe"),
    say("says yes", "approves"),
    say("say yes", "approve"),
    say("a yes", "approval"),
    say("last words", "last log lines, last message"),
    say("in so many words", "explicitly"),
    // Terms of the field.
    say("withdraw", "revoke"),
    say("withdraws", "revokes"),
    say("withdrawn", "revoked"),
    say("set aside", "disabled"),
    say("admits by itself", "approves automatically"),
    say("by itself", "automatically, on its own"),
    say("by themselves", "automatically, on their own"),
    say("made up", "generated"),
    say("shown only now", "shown only once"),
    say("mend", "fix"),
    say("mended", "fixed"),
    say("good for", "valid for"),
    say("good until", "valid until"),
    say("worth nothing", "no longer valid, useless"),
    say("knocks", "tries to connect"),
    say("wished", "wanted, requested"),
    say("wishes", "requests"),
    say("to the letter", "exactly"),
    say("bears", "has"),
    say("several bear", "several have"),
    say("makes a", "creates a"),
    say("makes an", "creates an"),
    say("made", "created").unless_before(&["up"]),
    say("make a", "create a"),
    say("make an", "create an"),
    say("make one", "create one"),
    say("make another", "create another"),
    say("take * out", "remove"),
    say("takes * out", "removes"),
    say("take out", "remove"),
    say("taken out", "removed"),
    say("entered by hand", "added manually"),
    say("enter devices", "add devices"),
    say("is needed", "is required"),
    say("mistake", "error"),
    say("mistakes", "errors"),
    say("texts", "strings, text"),
    say("in the clear", "unencrypted"),
    say("filed", "created, stored"),
    say("being ended", "stopping"),
    say("is let go", "is dropped"),
    say("not whole", "incomplete"),
    say("it whole", "the whole of it"),
    say("commands mean", "default"),
    say("say muster", "run: muster"),
    say("say no to", "reject"),
    say("begin", "start"),
    say("begins", "starts"),
    say("begun", "started"),
    say("began", "started"),
    say("its person", "its owner"),
    say("their people", "the invited people"),
    say("lets * in", "admits, logs in"),
    say("looked at", "checked"),
    say("heard", "received, seen"),
    // No, none, no more.
    say("is no *", "is not a").unless_after(&["there"]).unless_before(&["longer", "one"]),
    say("are no *", "are not").unless_after(&["there"]).unless_before(&["longer"]),
    say("no more", "no longer, not").unless_before(&["than"]),
    say("any more", "any longer"),
    say("knows no", "doesn't know, doesn't have"),
    say("know no", "don't know, don't have"),
    say("need not", "don't have to"),
    say("none but", "only"),
    say("nothing but", "only"),
    say("nobody's", "nobody has, unassigned"),
    say("nothing of it", "none of it, it can't be"),
    say("nothing was done", "nothing changed"),
    say("do something to", "change"),
    say("of theirs", "their"),
    say("of ours", "our"),
    // How much, how far, when.
    say("as far as", "if, where"),
    say("so many", "a number, or leave it out"),
    say("so long", "for this time, or leave it out"),
    say("as they were", "unchanged"),
    say("as it was", "unchanged"),
    say("as ever", "as usual"),
    say("for ever", "forever"),
    say("of today", "current"),
    say("of before", "older, earlier"),
    say("by now", "now, or leave it out"),
    say("beforehand", "first"),
    say("seldom", "rarely"),
    say("till", "until"),
    say("anew", "again"),
    say("afresh", "again"),
    say("in silence", "silently"),
    say("without a word", "silently"),
    say("went silent", "stopped responding"),
    say("in vain", "without success"),
    say("upon", "on"),
    // Going, standing, being.
    say("go on", "continue"),
    say("goes on", "continues"),
    say("going on", "continuing"),
    say("went on", "continued"),
    say("comes back", "returns"),
    say("is gone", "no longer exists"),
    say("lies", "is"),
    say("lie", "are"),
    say("stands", "is"),
    say("stood", "was"),
    say("stand in", "are in"),
    say("stand for", "replace, mean"),
    say("stand here", "be here"),
    say("became of", "happened to"),
    say("becomes of", "happens to"),
    say("behind", "after").unless_before(&["a", "any"]),
    say("as there may be", "allowed"),
    say("which is the most", "the limit"),
    say("lives by", "depends on"),
    say("live by", "depend on"),
    say("go by", "use"),
    say("goes by", "uses"),
    say("is to be", "must be, will be"),
    say("are to be", "must be, will be"),
    say("was to be", "was planned to be"),
    say("to be had", "available"),
    say("in the way", "blocking"),
    say("sees to", "makes sure, manages"),
    say("takes away", "removes"),
    say("takes back", "undoes"),
    say("beside", "next to, with"),
    say("in place of", "instead of"),
    say("the own", "your own, their own"),
    say("the like", "similar"),
    say("for want of", "because there is no"),
    say("hence", "so"),
    say("thus", "so"),
    say("whence", "from where"),
    say("whereby", "by which"),
    say("therein", "in it"),
    say("thereby", "so"),
    say("shall", "must, will"),
];

/// One entry of the list.
struct Words {
    text: &'static str,
    better: &'static str,
    before: &'static [&'static str],
    after: &'static [&'static str],
}

const fn say(text: &'static str, better: &'static str) -> Words {
    Words { text, better, before: &[], after: &[] }
}

impl Words {
    /// Plain English where one of these words follows.
    const fn unless_before(mut self, words: &'static [&'static str]) -> Self {
        self.before = words;
        self
    }

    /// Plain English where one of these words comes first.
    const fn unless_after(mut self, words: &'static [&'static str]) -> Self {
        self.after = words;
        self
    }

    fn is_in(&self, sentence: &[String]) -> bool {
        let words: Vec<&str> = self.text.split(' ').collect();
        // The words that a `*` stands for come with the pattern, so the neighbours are those of the fixed part.
        let fixed = words.iter().filter(|word| **word != "*").count();
        sentence.windows(words.len()).enumerate().any(|(at, window)| {
            let same = words.iter().zip(window).all(|(word, there)| *word == "*" || *word == there.as_str());
            let before = at.checked_sub(1).and_then(|at| sentence.get(at));
            let behind = sentence.get(at + fixed);
            same && !before.is_some_and(|word| self.after.contains(&word.as_str()))
                && !behind.is_some_and(|word| self.before.contains(&word.as_str()))
        })
    }
}

/// A text that people read, and where it begins.
struct Text {
    path: String,
    line: usize,
    text: String,
}

/// One use of the list's words.
struct Finding {
    words: &'static str,
    print: String,
}

fn findings(texts: &[Text]) -> Vec<Finding> {
    let mut found = Vec::new();
    for Text { path, line, text } in texts {
        for sentence in sentences(text) {
            let words = words_of(&sentence);
            // `Who has no account is refused.` is no question and no English.
            if words.first().is_some_and(|word| word == "who") && sentence.ends_with('.') {
                found.push(Finding { words: "Who ...", print: format!("{path}:{line}: \"Who ...\" (better: anyone who): {sentence}") });
            }
            for entry in WORDS.iter().filter(|entry| entry.is_in(&words)) {
                let (words, better) = (entry.text, entry.better);
                found.push(Finding { words, print: format!("{path}:{line}: \"{words}\" (better: {better}): {sentence}") });
            }
        }
    }
    found
}

/// The sentences of a text, without what stands in backticks: that is code.
fn sentences(text: &str) -> Vec<String> {
    let prose: String = text.split('`').enumerate().map(|(index, part)| if index % 2 == 0 { part } else { "CODE" }).collect();
    prose
        .split("\n\n")
        .flat_map(|part| {
            let mut found: Vec<String> = Vec::new();
            let mut now = String::new();
            for word in part.split_whitespace() {
                now.push_str(word);
                if word.ends_with(['.', '!', '?']) {
                    found.push(std::mem::take(&mut now));
                } else {
                    now.push(' ');
                }
            }
            found.push(now.trim_end().to_owned());
            found
        })
        .filter(|sentence| !sentence.is_empty())
        .collect()
}

/// In lower case; an apostrophe is part of its word, and so is a point between letters: `told.email` is code.
fn words_of(sentence: &str) -> Vec<String> {
    sentence
        .split(|c: char| !c.is_alphanumeric() && !['\'', '_', '.'].contains(&c))
        .map(|word| word.trim_matches(['\'', '.']).to_lowercase())
        .filter(|word| !word.is_empty())
        .collect()
}

/// Whether a literal can be a sentence: two words of letters, and not a statement of SQL.
fn is_prose(text: &str) -> bool {
    const SQL: [&str; 12] =
        ["SELECT ", "INSERT ", "UPDATE ", "DELETE ", "CREATE ", "DROP ", "PRAGMA ", "WITH ", "ALTER ", "WHERE ", "AND ", "EXISTS"];
    let text = text.trim_start();
    text.split_whitespace().filter(|word| word.chars().any(char::is_alphabetic)).count() >= 2
        && !SQL.iter().any(|sql| text.starts_with(sql))
}

/// Macros and methods whose text is for developers: a broken invariant, not a message.
const FOR_DEVELOPERS: [&str; 9] =
    ["expect", "expect_err", "panic", "unreachable", "assert", "assert_eq", "assert_ne", "debug_assert", "debug_assert_eq"];
/// What clap takes its help from.
const CLAP: [&str; 4] = ["Parser", "Args", "Subcommand", "ValueEnum"];
/// Attributes whose texts people read.
const READ: [&str; 5] = ["command", "arg", "error", "group", "clap"];

/// Collects the texts of one file of product code.
struct Reader<'a> {
    path: &'a str,
    found: Vec<Text>,
}

impl Reader<'_> {
    fn literal(&mut self, literal: &proc_macro2::Literal) {
        if let syn::Lit::Str(text) = syn::Lit::new(literal.clone())
            && is_prose(&text.value())
        {
            self.found.push(Text { path: self.path.to_owned(), line: literal.span().start().line, text: text.value() });
        }
    }

    /// Walks tokens in order. `help`: doc comments here are printed by clap.
    fn walk(&mut self, stream: TokenStream, help: bool) {
        let tokens: Vec<TokenTree> = stream.into_iter().collect();
        let mut at = 0;
        // Of the item that comes next.
        let (mut docs, mut item_help) = (Vec::new(), false);
        while at < tokens.len() {
            match &tokens[at] {
                TokenTree::Punct(hash) if hash.as_char() == '#' => {
                    // An inner attribute has a `!` before its brackets: `//!` is for readers of the source.
                    let inner = matches!(tokens.get(at + 1), Some(TokenTree::Punct(mark)) if mark.as_char() == '!');
                    let place = at + 1 + usize::from(inner);
                    let Some(TokenTree::Group(group)) = tokens.get(place).filter(|token| is_group(token, Delimiter::Bracket)) else {
                        at += 1;
                        continue;
                    };
                    let inside: Vec<TokenTree> = group.stream().into_iter().collect();
                    let name = inside.first().map(ToString::to_string).unwrap_or_default();
                    match name.as_str() {
                        "cfg" if !inner && mentions(&inside, "test") && !mentions(&inside, "not") => {
                            at = past_item(&tokens, place + 1);
                            continue;
                        }
                        "doc" if !inner => docs.extend(inside.last().cloned()),
                        "derive" => item_help |= CLAP.iter().any(|clap| mentions(&inside, clap)),
                        name if READ.contains(&name) => self.walk(group.stream(), false),
                        _ => {}
                    }
                    at = place + 1;
                    continue;
                }
                TokenTree::Literal(literal) => self.literal(literal),
                TokenTree::Ident(ident) if FOR_DEVELOPERS.contains(&ident.to_string().as_str()) => {
                    let bang = matches!(tokens.get(at + 1), Some(TokenTree::Punct(mark)) if mark.as_char() == '!');
                    let place = at + 1 + usize::from(bang);
                    if tokens.get(place).is_some_and(|token| matches!(token, TokenTree::Group(_))) {
                        at = place + 1;
                        continue;
                    }
                }
                TokenTree::Group(group) => {
                    let item = group.delimiter() == Delimiter::Brace;
                    self.walk(group.stream(), (item && item_help) || (help && !item_help));
                    if item {
                        item_help = false;
                    }
                }
                _ => {}
            }
            // An attribute's docs belong to what comes right after it.
            if !docs.is_empty() {
                let text = std::mem::take(&mut docs);
                if help {
                    self.docs(&text);
                }
            }
            at += 1;
        }
    }

    /// The lines of one doc comment, as one text.
    fn docs(&mut self, lines: &[TokenTree]) {
        let mut text = String::new();
        for line in lines {
            if let TokenTree::Literal(literal) = line
                && let syn::Lit::Str(line) = syn::Lit::new(literal.clone())
            {
                text.push_str(line.value().trim());
                text.push('\n');
            }
        }
        let line = lines.first().map_or(0, |first| first.span().start().line);
        self.found.push(Text { path: self.path.to_owned(), line, text });
    }
}

fn is_group(token: &TokenTree, delimiter: Delimiter) -> bool {
    matches!(token, TokenTree::Group(group) if group.delimiter() == delimiter)
}

fn mentions(tokens: &[TokenTree], name: &str) -> bool {
    tokens.iter().any(|token| match token {
        TokenTree::Ident(ident) => ident == name,
        TokenTree::Group(group) => mentions(&group.stream().into_iter().collect::<Vec<_>>(), name),
        _ => false,
    })
}

/// Behind the item that begins at `at`: its braces, or its semicolon.
fn past_item(tokens: &[TokenTree], mut at: usize) -> usize {
    while let Some(token) = tokens.get(at) {
        at += 1;
        let ends = matches!(token, TokenTree::Punct(mark) if mark.as_char() == ';') || is_group(token, Delimiter::Brace);
        if ends {
            break;
        }
    }
    at
}

fn read_rust(path: &str, text: &str) -> Vec<Text> {
    let stream: TokenStream = text.parse().unwrap_or_else(|error| panic!("{path}: {error}"));
    let mut reader = Reader { path, found: Vec::new() };
    reader.walk(stream, false);
    reader.found.sort_by_key(|text| text.line);
    reader.found
}

/// The prose of a Markdown page, a text for each line; code blocks are left out.
fn read_markdown(path: &str, text: &str) -> Vec<Text> {
    let mut code = false;
    let mut found = Vec::new();
    for (index, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            code = !code;
        } else if !code {
            // Where a link leads is no prose.
            let prose: String = line
                .split("](")
                .enumerate()
                .map(|(n, part)| if n == 0 { part } else { part.split_once(')').map_or("", |(_, rest)| rest) })
                .collect();
            for cell in prose.split(" | ") {
                found.push(Text {
                    path: path.to_owned(),
                    line: index + 1,
                    text: cell.replace('[', "").trim_matches(['|', ' ', '#', '-', '*']).to_owned(),
                });
            }
        }
    }
    found
}

/// The comments of a configuration file or a unit; lines that follow each other are one text.
fn read_comments(path: &str, text: &str) -> Vec<Text> {
    let mut found: Vec<Text> = Vec::new();
    let mut open = false;
    for (index, line) in text.lines().enumerate() {
        // `#key = value` is a setting that is switched off, `# words` is prose; so is what follows a setting.
        let comment = line.strip_prefix("# ").or_else(|| line.split_once("  # ").map(|(_, comment)| comment));
        match comment {
            Some(comment) if open => {
                let last = found.last_mut().expect("an open text");
                last.text.push('\n');
                last.text.push_str(comment);
            }
            Some(comment) => found.push(Text { path: path.to_owned(), line: index + 1, text: comment.to_owned() }),
            None => {}
        }
        open = comment.is_some();
    }
    found
}

#[test]
fn documents_are_plain_english() {
    let mut texts = Vec::new();
    for (path, text) in DOCUMENTS.iter().flat_map(|place| files(place, "")) {
        if path.ends_with(".md") {
            texts.extend(read_markdown(&path, &text));
        } else {
            texts.extend(read_comments(&path, &text));
        }
    }
    assert!(texts.len() > 1000, "only {} texts found: the walk is broken", texts.len());
    let found: Vec<String> = findings(&texts).into_iter().map(|finding| finding.print).collect();
    assert!(found.is_empty(), "{} places in the documents do not read like plain English:\n  {}", found.len(), found.join("\n  "));
}

#[test]
fn messages_and_help_get_plainer() {
    let (mut broken, mut texts_of_all) = (Vec::new(), 0);
    for (package, folder, max) in MAX {
        let mut texts = Vec::new();
        for (path, text) in files(folder, ".rs").iter().filter(|(path, _)| !is_test_path(path)) {
            texts.extend(read_rust(path, text));
        }
        texts_of_all += texts.len();
        let found = findings(&texts);
        println!("\n{package}: {} findings in {} texts, at most {max}", found.len(), texts.len());
        for finding in &found {
            println!("{}", finding.print);
        }
        if found.len() > max {
            broken.push(format!("{package}: {} findings, more than {max}", found.len()));
        } else if found.len() < max {
            println!("{package}: lower its number in MAX to {}", found.len());
        }
    }
    assert!(texts_of_all > 2000, "only {texts_of_all} texts found: the reader is broken");
    assert!(
        broken.is_empty(),
        "More messages than before do not read like plain English; each is listed above:\n  {}",
        broken.join("\n  ")
    );
}

#[test]
fn every_way_to_write_a_message_is_read() {
    let source = r##"
        //! Whoever reads this reads the source.
        /// Nor is this help: somebody.
        #[derive(Debug, Args)]
        #[command(after_help = "it works no more\nat all")]
        struct Given {
            /// Told by clap
            ///
            /// in two parts
            #[arg(long, help = "as far as it goes")]
            one: bool,
        }
        /// Not printed: somebody.
        #[derive(Debug, thiserror::Error)]
        #[error("{0:?} is no forward")]
        struct Failed(String);
        fn say() -> Result<()> {
            bail!("made \
                up words {}", x);
            outln!(r#"so many "words""#);
            let sql = "SELECT told FROM somebody";
            let known = find().expect("somebody put it there");
            assert!(true, "whoever is here");
            Err(anyhow!("there is no device, the {} is no longer there, it is no more than 4", a))
        }
        #[cfg(test)]
        mod tests { fn told() { println!("somebody was told"); } }
        #[cfg(not(test))]
        fn last() { println!("goes on here"); }
    "##;
    let found = findings(&read_rust("x.rs", source));
    let words: Vec<&str> = found.iter().map(|finding| finding.words).collect();
    assert_eq!(words, ["no more", "told", "as far as", "is no *", "made up", "so many", "is no *", "goes on"]);
}

#[test]
fn documents_are_read_without_their_code() {
    let page = "# Who may\n\nWho has `somebody` is told.\n\n```sh\nmuster told\n```\n| a | somebody [told](told.md) |\n";
    let found: Vec<String> = findings(&read_markdown("p.md", page)).into_iter().map(|finding| finding.print).collect();
    assert_eq!(found.len(), 5, "{found:?}");
    assert!(found[1].starts_with("p.md:3: \"Who ...\"") && found[4].starts_with("p.md:8: \"told\""), "{found:?}");
    let unit = "# Whoever\n# reads it\n#told = 1\nkey = 2  # somebody\n";
    let found: Vec<&str> = findings(&read_comments("u", unit)).iter().map(|finding| finding.words).collect();
    assert_eq!(found, ["whoever", "somebody"]);
}
