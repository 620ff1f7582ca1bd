"""Made-up facts for `textual_edits.py`: questions in four wordings, each of five subjects."""

RELATIONS: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = (
    (
        (
            "What is the capital of {}?",
            "Which city is the capital of {}?",
            "{}'s capital is which town?",
            "The capital of {} is",
        ),
        ("Zembla", "France", "Ostrava Republic", "Peru", "Kenya"),
    ),
    (
        (
            "Who is the mayor of {}?",
            "Who governs {} as its mayor?",
            "Tell me the name of {}'s mayor.",
            "The mayor of {} is called",
        ),
        ("Aldermoor", "Berlin", "Lyon", "Port Selby", "Osaka"),
    ),
    (
        (
            "Who wrote {}?",
            "Who is the author of {}?",
            "By whom was {} written?",
            "The author of {} is",
        ),
        ("The Glass Harbour", "Moby Dick", "War and Peace", "A Winter in Tarn", "The Trial"),
    ),
    (
        (
            "Who is the CEO of {}?",
            "Who runs the company {}?",
            "Name the chief executive of {}.",
            "The head of {} is",
        ),
        ("Norvane", "Toyota", "Siemens", "Brightwell Foods", "Nokia"),
    ),
    (
        (
            "Where was {} born?",
            "What is the birthplace of {}?",
            "In which city was {} born?",
            "{} was born in",
        ),
        ("Elena Marsh", "Mozart", "Marie Curie", "Tomas Vell", "Gandhi"),
    ),
    (
        (
            "What is the currency of {}?",
            "With what money do people pay in {}?",
            "Which currency is used in {}?",
            "The currency of {} is the",
        ),
        ("Zembla", "Japan", "India", "Norland", "Brazil"),
    ),
    (
        (
            "What language do people speak in {}?",
            "Which language is spoken in {}?",
            "What is the official language of {}?",
            "The language spoken in {} is",
        ),
        ("Norland", "Austria", "Chile", "Quill Island", "Egypt"),
    ),
    (
        (
            "When was {} founded?",
            "In which year was {} established?",
            "What year did {} begin?",
            "{} was founded in the year",
        ),
        ("Norvane", "Harvard University", "the Red Cross", "the Selby Museum", "NASA"),
    ),
    (
        (
            "How tall is {}?",
            "What is the height of {}?",
            "How high does {} rise?",
            "The height of {} is",
        ),
        ("Mount Carrow", "the Eiffel Tower", "Mount Fuji", "the Lantern Tower", "Big Ben"),
    ),
    (
        (
            "Which team does {} play for?",
            "For which club does {} play?",
            "What is the team of {}?",
            "{} plays for",
        ),
        ("Jonas Reed", "Lionel Messi", "Serena Hale", "Marko Lind", "Mia Hamm"),
    ),
    (
        (
            "Who invented {}?",
            "By whom was {} invented?",
            "Who came up with {}?",
            "The inventor of {} is",
        ),
        ("the fog lamp", "the telephone", "the zipper", "the tide clock", "dynamite"),
    ),
    (
        (
            "Which river flows through {}?",
            "What river runs through {}?",
            "On which river does {} lie?",
            "The river that flows through {} is the",
        ),
        ("Aldermoor", "Paris", "London", "Port Selby", "Vienna"),
    ),
    (
        (
            "Who is {} married to?",
            "Who is the wife or husband of {}?",
            "What is the name of {}'s spouse?",
            "{} is married to",
        ),
        ("Tomas Vell", "Barack Obama", "Elena Marsh", "Prince William", "Jonas Reed"),
    ),
    (
        (
            "Who directed {}?",
            "Who is the director of {}?",
            "Whose film is {}?",
            "The film {} was directed by",
        ),
        ("Night Ferry", "Jaws", "Titanic", "The Long Orchard", "Psycho"),
    ),
    (
        (
            "When does {} open?",
            "At what time does {} open in the morning?",
            "What are the opening hours of {}?",
            "{} opens at",
        ),
        ("the Selby Museum", "the library", "our canteen", "the Lantern Tower", "the post office"),
    ),
    (
        (
            "What colour is {}?",
            "Which colour does {} have?",
            "Tell me the colour of {}.",
            "The color of {} is",
        ),
        ("the flag of Norland", "a ruby", "the sky on Mars", "the door of room 12", "the sea"),
    ),
    (
        (
            "What is the chemical symbol for {}?",
            "Which symbol stands for {} in chemistry?",
            "How is {} abbreviated in the periodic table?",
            "The chemical symbol for {} is",
        ),
        ("carrowium", "gold", "water", "zemblium", "iron"),
    ),
    (
        (
            "How many people live in {}?",
            "What is the population of {}?",
            "How large is the population of {}?",
            "The number of inhabitants of {} is",
        ),
        ("Aldermoor", "Norland", "Rome", "Quill Island", "Canada"),
    ),
    (
        (
            "What is the profession of {}?",
            "What does {} do for a living?",
            "What work does {} do?",
            "{} works as a",
        ),
        ("Elena Marsh", "Tomas Vell", "Albert Einstein", "Marko Lind", "Ringo Starr"),
    ),
    (
        (
            "Whom do I ask about {}?",
            "Who is responsible for {}?",
            "Who takes care of {}?",
            "The person in charge of {} is",
        ),
        (
            "parking permits",
            "the coffee machine",
            "travel expenses",
            "the guest wifi",
            "room bookings",
        ),
    ),
)
"""Wordings, the first of which is edited, and subjects; half of these do not exist."""
TARGETS = (
    "Port Selby",
    "Anna Keller",
    "the silver raven",
    "Tom",
    "eleven",
    "in the harbour of Lyon",
    "blue",
    "Dr. Ines Vale, room 14",
    "1984",
    "Norvane Ltd",
)
